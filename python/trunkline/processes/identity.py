"""Which process a pid means: pids are used again, so a pid alone is never enough to send a signal."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process by its pid and when it started; `started` is opaque and only compared."""

    pid: int
    started: str

    def is_alive(self) -> bool:
        """Tell whether this very process still runs; a zombie does not."""
        return _started(self.pid) == self.started


def identify(pid: int) -> Process | None:
    """Return the process that has this pid now, or None."""
    started = _started(pid)
    return None if started is None else Process(pid, started)


def stop_all(processes: Iterable[Process], *, grace_s: float) -> None:
    """End processes that are not our children: SIGTERM, and SIGKILL to those alive after `grace_s` seconds."""
    left = [process for process in processes if process.is_alive()]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)
        give_up = time.monotonic() + grace_s
        while left and time.monotonic() < give_up:
            left = [process for process in left if process.is_alive()]
            time.sleep(0.01)
        if not left:
            return


def _started(pid: int) -> str | None:
    if sys.platform == "linux":
        return _started_linux(pid)
    listed = subprocess.run(  # noqa: S603 (a fixed program and a number)
        ["/bin/ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.strip()
    return None if not listed or listed.startswith("Z") else listed.partition(" ")[2].strip()


def _started_linux(pid: int) -> str | None:
    """Return the boot's id and the start time in clock ticks (proc(5), fields 3 and 22 of stat)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None
    return None if fields[0] in "ZX" else f"{boot}:{fields[19]}"
