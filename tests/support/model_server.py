"""A model server process with options of one's own; most tests want the `model_server` fixture instead."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class ModelServerProcess:
    url: str
    process: subprocess.Popen[str]


@contextlib.contextmanager
def started(*options: str) -> Iterator[ModelServerProcess]:
    """A running server on a free port; ended afterwards, if it has not ended by itself."""
    command = [sys.executable, "-m", "trunkline.model_server", "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            first_line = process.stdout.readline()
            assert first_line.startswith("model server listening on http://"), process.communicate(timeout=10)[1]
            yield ModelServerProcess(first_line.split()[-1], process)
        finally:
            process.terminate()
