"""Where the shell and file tools of a session work: a place with files and processes of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

WORKSPACE: Final = "/workspace"
"""The working directory: where relative paths begin."""


@dataclass(frozen=True, slots=True)
class Ended:
    """What a command came to. `output` is bounded; `status` None: it was stopped at its time limit."""

    status: int | None
    output: str


class Sandbox(Protocol):
    """The place of one session. Paths are those that the model knows; what leads out of the place is refused.

    Every method raises ToolError with words for the model, and may be called many times at once.
    """

    @property
    def about(self) -> str:
        """What the model must know of the place, beside that it works in `WORKSPACE`."""
        ...

    async def run(self, argv: Sequence[str], *, seconds: float) -> Ended:
        """Run a command, and end all its processes after so many seconds, or when this is cancelled."""
        ...

    async def read(self, path: str, limit: int) -> bytes:
        """Return a file's bytes; a file of more than `limit` bytes is an error."""
        ...

    async def write(self, path: str, content: bytes) -> None:
        """Make or replace a file, and the directories that it is in."""
        ...

    async def glob(self, pattern: str, path: str) -> list[str]:
        """Return the files under a directory that a pattern with `*`, `?`, `[…]`, `**` fits, newest first, bounded."""
        ...

    def place(self, path: str) -> str:
        """Return a path as the place's processes see it."""
        ...
