"""What `postmaster.pid` says, held against the processes that really run.

The file alone proves nothing: after a SIGKILL it stays behind, its pid may be another program's by now, or that of a
dead process whose parent has not collected it.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from trunkline.errors import SetupError

POLL_S = 0.005
"""Pause between two looks at a state; `pg_ctl -w` takes 0.1 s, longer than a warm start."""

_TLS_REQUEST = (8).to_bytes(4) + (80877103).to_bytes(4)
"""SSLRequest of the Postgres wire: its length and its code."""

STOP_TIMEOUT_S = 15.0
ORPHANS_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class Postmaster:
    """A live server process of one data folder, as its pid file describes it."""

    pid: int
    port: int
    socket_dir: Path | None
    tcp_host: str
    """Where it listens; empty: on its socket alone."""
    state: str
    """`starting`, `ready`, `stopping` or `standby`; empty very early."""

    @property
    def socket(self) -> Path | None:
        """The path of its Unix socket."""
        return None if self.socket_dir is None else self.socket_dir / f".s.PGSQL.{self.port}"

    def answers(self) -> bool:
        """Whether it is ready and serves a connection.

        That one is accepted proves nothing, the kernel does it for a dying process too; so it is asked for TLS, which a
        live server declines.
        """
        if self.state != "ready" or self.socket is None:
            return False
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(str(self.socket))
                probe.sendall(_TLS_REQUEST)
                return probe.recv(1) in {b"N", b"S"}
            except OSError:
                return False


def read_postmaster(data: Path) -> Postmaster | None:
    """Return the server that runs on the folder `data`, or None if the pid file is absent, incomplete or stale.

    Its lines: pid, data folder, start time, port, first socket folder, first address, shared memory key, state.
    """
    try:
        lines = (data / "postmaster.pid").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    lines += [""] * (8 - len(lines))
    if not lines[0].isdecimal() or not lines[3].isdecimal() or not _serves(int(lines[0]), data):
        return None
    socket_dir = Path(lines[4]) if lines[4] else None
    return Postmaster(int(lines[0]), int(lines[3]), socket_dir, lines[5].strip(), lines[7].strip())


def servers_of(data: Path) -> list[psutil.Process]:
    """Return every live Postgres process of this data folder; the postmaster's children work in it as well."""
    return [process for process in psutil.process_iter() if _serves(process.pid, data)]


def end(pid: int) -> None:
    """Have the server end: open transactions rolled back, a checkpoint written; by force if that takes too long."""
    try:
        process = psutil.Process(pid)
        for signal_number, timeout_s in (
            (signal.SIGINT, STOP_TIMEOUT_S),
            (signal.SIGQUIT, 5.0),
            (signal.SIGKILL, 5.0),
        ):
            process.send_signal(signal_number)
            if wait_until(lambda: _ended(process), timeout_s):
                return
    except psutil.NoSuchProcess:
        return
    raise SetupError(f"Postgres, pid {pid}, does not end; end it yourself.")


def end_orphans(data: Path) -> None:
    """Wait until the processes of a killed server are gone; end those that are too busy to notice its death."""
    for signal_number in (signal.SIGQUIT, signal.SIGKILL):
        if wait_until(lambda: not servers_of(data), ORPHANS_TIMEOUT_S):
            return
        for process in servers_of(data):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal_number)
    if not wait_until(lambda: not servers_of(data), ORPHANS_TIMEOUT_S):
        pids = ", ".join(str(process.pid) for process in servers_of(data))
        raise SetupError(f"Processes of a killed Postgres still hold {data}: pid {pids}; end them.")


def _serves(pid: int, data: Path) -> bool:
    try:
        process = psutil.Process(pid)
        return (
            process.status() not in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}
            and Path(process.cwd()) == data.resolve()
            and process.name().startswith("postgres")
        )
    except (psutil.Error, OSError):
        return False


def _ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Look at `condition` every few milliseconds; return whether it came true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return True
