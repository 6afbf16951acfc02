"""Runs one command of a tool within limits, and ends all that it started: a program by itself.

It is started as `python -I -S confine.py JSON` and ends with the exit status of the command. JSON: `argv`, `cwd`,
`limits` by the names of `resource`, `uid`, the user that the command becomes (null: it stays who it is),
`own_network`, and `third`, a descriptor that it has as its number 3 (null: none).
SIGTERM, and the death of whoever started this, end the command and every process of its.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
from typing import Any

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 36, 38
_CLONE_NEWUSER, _CLONE_NEWNET = 0x1000_0000, 0x4000_0000


class _Told(BaseException):
    """Somebody wants it to end."""


def main() -> int:
    """Run the command and return its exit status, as shells count it."""
    command: dict[str, Any] = json.loads(sys.argv[1])
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)  # what its processes leave behind becomes ours, to be ended by us
    os.setsid()
    started = 0

    def told(*_: object) -> None:
        raise _Told

    signal.signal(signal.SIGTERM, told)
    try:
        started = os.fork()
        if started == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            _become(command, libc)
        while True:
            ended, status = os.waitpid(-1, 0)
            if ended == started:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
    except _Told:
        return 128 + signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _end_all(command["uid"])


def _become(command: dict[str, Any], libc: ctypes.CDLL) -> None:
    """Turn into the command; never returns."""
    try:
        for name, value in command["limits"].items():
            number = getattr(resource, name)
            hard = resource.getrlimit(number)[1]
            bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(number, (bound, bound))
        if command["uid"] is not None:
            os.setgroups([])
            os.setresgid(command["uid"], command["uid"], command["uid"])
            os.setresuid(command["uid"], command["uid"], command["uid"])
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if command["own_network"]:  # where the kernel lets everybody: a network of its own, without a way out
            libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
        if command["third"] is not None:
            os.dup2(command["third"], 3)
        os.chdir(command["cwd"])
        os.execve(command["argv"][0], command["argv"], dict(os.environ))  # noqa: S606 (this is what it is for)
    except BaseException as error:  # noqa: BLE001 (a fork must not go on as its parent)
        os.write(2, f"The command could not be started: {error}\n".encode())
    os._exit(127)


def _end_all(uid: int | None) -> None:
    """Kill every process that is left until there is none; while one is killed others may be born."""
    while True:
        if uid is not None and (killer := os.fork()) == 0:
            with contextlib.suppress(OSError):
                os.setresuid(uid, uid, uid)
                os.kill(-1, signal.SIGKILL)  # all that this user has
            os._exit(0)
        found = _descendants() if uid is None else []
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in found:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
        try:
            if uid is not None:
                os.waitpid(killer, 0)
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:
            return


def _descendants() -> list[int]:
    """Return the processes that this one and its children have started, as far as they still run."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208 (pathlib takes longer to import than all of this)
        if entry.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{entry}/stat") as file:  # noqa: PTH123
                children.setdefault(int(file.read().rpartition(")")[2].split()[1]), []).append(int(entry))
    found, ahead = [], [os.getpid()]
    while ahead:
        new = children.get(ahead.pop(), [])
        found += new
        ahead += new
    return found


if __name__ == "__main__":
    sys.exit(main())
