"""One owner at a time for a `TRUNKLINE_HOME`."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Self

from trunkline.errors import SetupError


class HomeLock:
    """A lock file held while one process owns the home; the kernel frees it however that process ends."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Become the owner, or raise SetupError that names the one there is. Taking it twice is taking it once."""
        if self._descriptor is not None:
            return
        descriptor = os.open(self._home / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise SetupError(self._already_running(owner)) from None
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Let go; nothing happens if this process is not the owner."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _already_running(self, owner: str) -> str:
        try:
            base_url = str(json.loads((self._home / "run.json").read_text(encoding="utf-8"))["base_url"])
        except (OSError, ValueError, KeyError, TypeError):
            base_url = ""
        where = f", at {base_url}" if base_url else ""
        return (
            f"Trunkline is already running in {self._home}: pid {owner}{where}. "
            "Use that one, stop it first, or set TRUNKLINE_HOME to another folder."
        )
