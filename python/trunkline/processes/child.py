from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from trunkline.processes.identity import Process, identify

_BACK_OFF_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_STEADY_S = 5.0
"""A child that ran this long starts again without delay: what killed it was nothing that keeps it from working, and its
work waits. The back-off is for those that cannot start; one whose end comes later starts every few seconds at most."""


def describe(status: int | None) -> str:
    """Return an exit status in words; a negative one is the signal that ended the process."""
    if status is not None and status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"


class Child:
    """One process of `trunkline.processes`, restarted with back-off whenever it ends.

    It has a session of its own, so that a Ctrl-C in the terminal reaches the supervisor alone, and writes to its log
    directly, so that neither can block the other.
    """

    def __init__(self, name: str, log: Path, *, descriptors: Sequence[int] = ()) -> None:
        self.name = name
        self.log = log
        self.log_start = 0
        """Where in its log the current process began, in bytes."""
        self.process: Process | None = None
        self._descriptors = tuple(descriptors)
        self._popen: subprocess.Popen[bytes] | None = None
        self._configuration: bytes | None = None
        self._started_at = 0.0
        self._failures = 0
        self._restart_at: float | None = None

    def start(self) -> None:
        """Start the process; it waits for its configuration."""
        with self.log.open("ab") as log:
            self.log_start = log.tell()
            self._popen = subprocess.Popen(  # noqa: S603 (our own module)
                [sys.executable, "-P", "-m", f"trunkline.processes.{self.name}"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=self._descriptors,
            )
        self.process = identify(self._popen.pid)
        self._started_at = time.monotonic()
        self._restart_at = None
        if self._configuration is not None:
            self._send()

    def configure(self, configuration: Mapping[str, Any]) -> None:
        """Give the process, and every one that takes its place, its configuration."""
        self._configuration = json.dumps(configuration).encode() + b"\n"
        self._send()

    def _send(self) -> None:
        if self._popen is not None and self._popen.stdin is not None and self._configuration is not None:
            with contextlib.suppress(BrokenPipeError):  # it has ended; whoever polls it will see
                self._popen.stdin.write(self._configuration)
                self._popen.stdin.flush()

    def exit_status(self) -> int | None:
        """Return the status that the process ended with, None while it runs."""
        return None if self._popen is None else self._popen.poll()

    def tend(self, now: float) -> Literal["ended", "started"] | None:
        """Start the process again if it has ended and its delay is over; tell what changed since the last call.

        `now` is of `time.monotonic()`.
        """
        if self.exit_status() is None:
            return None
        if self._restart_at is None:
            self._failures = 0 if now - self._started_at > _STEADY_S else self._failures + 1
            self._restart_at = now + (_BACK_OFF_S[min(self._failures, len(_BACK_OFF_S)) - 1] if self._failures else 0)
            return "ended"
        if now < self._restart_at:
            return None
        self._close()
        self.start()
        return "started"

    @property
    def restart_at(self) -> float | None:
        """When the process will be started again, of `time.monotonic()`; None if it runs."""
        return self._restart_at

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal; nothing happens if it has ended."""
        if self._popen is not None:
            self._popen.send_signal(number)

    def has_ended(self) -> bool:
        """Tell whether there is nothing left to wait for."""
        return self._popen is None or self._popen.poll() is not None

    def _close(self) -> None:
        if self._popen is not None and self._popen.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._popen.stdin.close()

    def last_words(self) -> str:
        """Return the last line that the current process wrote."""
        with self.log.open("rb") as log:
            log.seek(max(self.log_start, os.fstat(log.fileno()).st_size - 8192))
            lines = log.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
