from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from types import FrameType, TracebackType

_STOP = (signal.SIGINT, signal.SIGTERM)


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


class Signals:
    """Counts requests to stop, and wakes a waiting supervisor for them and for every child that ends.

    A context manager; the handlers of before are back afterwards. Only for the main thread.
    """

    def __init__(self) -> None:
        self.stops = 0
        """How often SIGINT or SIGTERM came, or SIGHUP because the terminal went away."""
        self.reloads = 0
        """How often SIGHUP came otherwise: somebody wants the settings to be read anew."""
        self._terminal = _has_terminal()
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def __enter__(self) -> Signals:
        self._before = {number: signal.getsignal(number) for number in (*_STOP, signal.SIGHUP, signal.SIGCHLD)}
        self._fd_before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in _STOP:
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, self._hang_up)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        return self

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self.stops += 1

    def _hang_up(self, _number: int, _frame: FrameType | None) -> None:
        if self._terminal and not _has_terminal():
            self.stops += 1
        else:
            self.reloads += 1

    def wait(self, timeout_s: float) -> None:
        """Return after `timeout_s` seconds, or at once when a signal came since the last call."""
        if select.select([self._reader], [], [], max(timeout_s, 0.0))[0]:
            with contextlib.suppress(BlockingIOError):
                while self._reader.recv(4096):
                    pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._fd_before)
        self._reader.close()
        self._writer.close()
