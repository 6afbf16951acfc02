from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

_MAX_BYTES = 64 * 1024 * 1024


class Tail:
    """What is added to log files from now on, line by line."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._positions = {file: file.stat().st_size if file.exists() else 0 for file in files}

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yield each new whole line with the name of its file."""
        for file, position in self._positions.items():
            with contextlib.suppress(FileNotFoundError), file.open("rb") as log:
                if os.fstat(log.fileno()).st_size < position:
                    position = 0  # noqa: PLW2901 (rotated)
                log.seek(position)
                whole, newline, _ = log.read().rpartition(b"\n")
                self._positions[file] = position + len(whole) + len(newline)
                for line in whole.decode(errors="replace").split("\n") if newline else ():
                    yield file.stem, line


def start() -> None:
    """Write warnings and errors to standard error, with their time."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s", level=logging.WARNING)


def rotate(file: Path, max_bytes: int = _MAX_BYTES) -> None:
    """Move the content of a log over its size to `NAME.1`; its writers, who append, go on at its new beginning."""
    with contextlib.suppress(FileNotFoundError):
        if file.stat().st_size > max_bytes:
            shutil.copyfile(file, file.with_name(f"{file.name}.1"))
            os.truncate(file, 0)
