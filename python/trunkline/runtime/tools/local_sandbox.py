"""Sandboxes on this machine: a directory a session, and processes in it under bubblewrap, or within limits alone."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal
from uuid import UUID

from trunkline.runtime.tools import confine
from trunkline.runtime.tools.output import Output
from trunkline.runtime.tools.sandbox import WORKSPACE, Ended
from trunkline.runtime.tools.session_files import SessionFiles, split
from trunkline.runtime.tools.tool import ToolError

Confinement = Literal["bubblewrap", "limits"]

_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SYSTEM: Final = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
"""Beside /usr; in most systems these are links into it."""
_SETTINGS: Final = ("alternatives", "ld.so.cache", "localtime", "mime.types", "nsswitch.conf", "ssl")
"""Of /etc; the rest may be nobody's business."""
TAKEN: Final = frozenset({*_SYSTEM, "boot", "dev", "etc", "proc", "root", "run", "sys", "tmp", "usr", "var"})
"""Top directories that are the system's: no file is mounted there."""
_USERS: Final = (52_000, 8_000)
"""The users, first and number, that sessions' processes are where the worker is root."""
_LIMITS: Final = {
    "RLIMIT_AS": 4 << 30,
    "RLIMIT_FSIZE": 1 << 30,
    "RLIMIT_NPROC": 256,
    "RLIMIT_NOFILE": 1024,
    "RLIMIT_CORE": 0,
}
"""Of each process; of processes their number for all sessions of one user."""
_PR_SET_DUMPABLE: Final = 4
_GRACE_SECONDS: Final = 5.0
_PIECE: Final = 1 << 16


def confinement() -> Confinement | None:
    """Return how processes can be kept apart here: by bubblewrap, or as another user; None: not at all.

    Without bubblewrap a process of the worker's own user could read the worker's secrets, so it is not done by default.
    """
    if not sys.platform.startswith("linux"):
        return None
    if _bubblewrap_works():
        return "bubblewrap"
    return "limits" if os.geteuid() == 0 else None


def hide_from_own_user() -> None:
    """Keep memory and environment of this process from processes of the same user, as tools without a sandbox are."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0)


def _bubblewrap_works() -> bool:
    """Tell whether bubblewrap is there and the kernel lets us use it."""
    program = shutil.which("bwrap")
    if program is None:
        return False
    argv = [program, "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "true"]
    user = _USERS[0] if os.geteuid() == 0 else None
    pid = os.posix_spawn(
        sys.executable,
        _confined(argv, "/", user, own_network=False),
        {"PATH": _PATH},
        file_actions=[(os.POSIX_SPAWN_OPEN, number, "/dev/null", os.O_RDWR, 0) for number in (0, 1, 2)],
    )
    return os.waitpid(pid, 0)[1] == 0


@dataclass(frozen=True, slots=True)
class LocalSandbox:
    """The sandbox of one session in `directory`, which `open_sandbox` has made."""

    files: SessionFiles
    confined: Confinement
    network: bool
    user: int | None

    @property
    def path(self) -> str:
        """Where programs are looked for."""
        return _PATH

    @property
    def about(self) -> str:
        """What the model must know of the place."""
        net = "There is a network." if self.network else "There is no network."
        if self.confined == "bubblewrap":
            return net
        return f"{net} In commands, paths that begin with / are the machine's: use relative ones, or begin with $ROOT."

    def place(self, path: str) -> str:
        """Return a path as the place's processes see it."""
        inside = "/" + "/".join(split(path))
        return inside if self.confined == "bubblewrap" else f"{self.files.root}{inside}"

    async def read(self, path: str, limit: int) -> bytes:
        """Return a file's bytes. Raises ToolError."""
        return await asyncio.to_thread(self.files.read, path, limit)

    async def write(self, path: str, content: bytes) -> None:
        """Make or replace a file. Raises ToolError."""
        await asyncio.to_thread(self.files.write, path, content)

    async def glob(self, pattern: str, path: str) -> list[str]:
        """Return the files that fit, newest first. Raises ToolError."""
        return await asyncio.to_thread(self.files.glob, pattern, path)

    async def run(self, argv: Sequence[str], *, seconds: float) -> Ended:
        """Run a command with all that it starts. Raises ToolError where it cannot be started."""
        whole = self._in_bubblewrap(argv) if self.confined == "bubblewrap" else ["/usr/bin/env", *argv]
        workspace = str(self.files.root) + WORKSPACE
        home = WORKSPACE if self.confined == "bubblewrap" else workspace
        root = "" if self.confined == "bubblewrap" else str(self.files.root)
        environment = {"PATH": _PATH, "HOME": home, "ROOT": root, "LANG": "C.UTF-8", "TERM": "dumb"}
        own_network = self.confined == "limits" and not self.network
        command = _confined(whole, workspace, self.user, own_network=own_network)
        return await _ended(command, environment, seconds)

    async def run_beside(
        self,
        argv: Sequence[str],
        folder: Path,
        *,
        environment: Mapping[str, str],
        seconds: float,
        third: int | None = None,
    ) -> Ended:
        """Run a command of ours as the session's user and within its limits, with the machine's files and network.

        `third` is a descriptor that it has as its number 3. Raises ToolError where it cannot be started.
        """
        command = _confined(argv, str(folder), self.user, own_network=False, third=third)
        return await _ended(command, {"PATH": _PATH, "LC_ALL": "C", **environment}, seconds, third)

    def _in_bubblewrap(self, argv: Sequence[str]) -> list[str]:
        program = shutil.which("bwrap") or "/usr/bin/bwrap"
        whole = [program, "--unshare-all", "--die-with-parent", "--new-session", "--hostname", "session"]
        whole += ["--share-net"] if self.network else []
        whole += ["--ro-bind", "/usr", "/usr", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]  # noqa: S108
        for name in _SYSTEM:
            path = Path("/", name)
            if path.is_symlink():
                whole += ["--symlink", str(path.readlink()), str(path)]
            elif path.exists():
                whole += ["--ro-bind", str(path), str(path)]
        names = (*_SETTINGS, "hosts", "resolv.conf") if self.network else _SETTINGS
        for name in names:
            whole += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
        for entry in sorted(self.files.root.iterdir()):
            if entry.is_dir() and not entry.is_symlink() and entry.name not in TAKEN:
                whole += ["--bind", str(entry), f"/{entry.name}"]
        return [*whole, "--chdir", WORKSPACE, *argv]


def open_sandbox(directory: Path, session_id: UUID, *, confined: Confinement, network: bool) -> LocalSandbox:
    """Return the sandbox of a session, and make its directory where it is not there yet. Raises ToolError."""
    user = _USERS[0] + session_id.int % _USERS[1] if os.geteuid() == 0 else None
    root = directory / "root"
    files = SessionFiles(root, user)
    try:
        directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        root.mkdir(mode=0o755, exist_ok=True)
        for name in (WORKSPACE, "/mnt/session/outputs", "/mnt/session/uploads"):
            files.make(name)
    except OSError as error:
        raise ToolError(f"The session has no place to work in: {error.strerror}. Tell the operator.") from error
    return LocalSandbox(files, confined, network, user)


def _confined(
    argv: Sequence[str], folder: str, user: int | None, *, own_network: bool, third: int | None = None
) -> list[str]:
    """Return the command that runs another one within the limits."""
    told = {
        "argv": list(argv),
        "cwd": folder,
        "uid": user,
        "limits": _LIMITS,
        "own_network": own_network,
        "third": third,
    }
    return [sys.executable, "-I", "-S", confine.__file__, json.dumps(told)]


async def _ended(
    command: Sequence[str], environment: Mapping[str, str], seconds: float, third: int | None = None
) -> Ended:
    """Run a command until it ends or its time is over. Raises ToolError where it cannot be started."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
            pass_fds=() if third is None else (third,),
        )
    except OSError as error:
        raise ToolError(f"No process could be started: {error.strerror}.") from error
    output = Output()
    reading = asyncio.create_task(_read(process, output))
    try:
        done, _ = await asyncio.wait([reading], timeout=seconds)
    finally:
        await _end(process, reading)
    return Ended(process.returncode if done else None, output.text())


async def _read(process: asyncio.subprocess.Process, output: Output) -> None:
    if process.stdout is not None:
        while piece := await process.stdout.read(_PIECE):
            output.add(piece)
    await process.wait()


async def _end(process: asyncio.subprocess.Process, reading: asyncio.Task[None]) -> None:
    """End a command, if it has not ended by itself, and what it has started; `confine` does both when it is told."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if reading.done():
            break
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        await asyncio.wait([reading], timeout=_GRACE_SECONDS)
    reading.cancel()
