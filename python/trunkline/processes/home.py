"""The files that a running Trunkline keeps in `TRUNKLINE_HOME`, apart from the database."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from trunkline.errors import SetupError
from trunkline.processes.identity import Process


@dataclass(frozen=True)
class Run:
    """`run.json`: what runs, and where it answers."""

    pid: int
    """Of the supervisor."""
    base_url: str
    control_url: str
    processes: Mapping[str, Process] = field(default_factory=dict)
    """By name: gateway, control, worker, and postgres where it is the embedded one."""


class Home:
    """`run.json`, `admin.key` and `logs/` in `TRUNKLINE_HOME`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run_file = path / "run.json"
        self.key_file = path / "admin.key"
        self.logs = path / "logs"

    def make(self) -> None:
        """Make the folders. Raises SetupError if they cannot be made."""
        try:
            self.path.mkdir(
                mode=0o711, parents=True, exist_ok=True
            )  # a server that root runs as another user passes through
            self.logs.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise SetupError(
                f"{self.path} cannot be written: {error.strerror}; set TRUNKLINE_HOME to a folder of yours."
            ) from error

    def read_run(self) -> Run | None:
        """Return the last `run.json`, of a live supervisor or a dead one; None if there is none that can be read."""
        try:
            content = json.loads(self.run_file.read_text(encoding="utf-8"))
            processes = {name: Process(**entry) for name, entry in content.pop("processes").items()}
            return Run(**content, processes=processes)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def write_run(self, run: Run) -> None:
        """Replace `run.json`; a reader sees the old one or the new one, whole."""
        _replace(self.run_file, json.dumps(asdict(run)) + "\n")

    def remove_run(self) -> None:
        """Remove `run.json`: nothing runs any more."""
        self.run_file.unlink(missing_ok=True)

    def read_key(self) -> str | None:
        """Return the key that was kept, or None."""
        try:
            return self.key_file.read_text(encoding="utf-8").strip() or None
        except FileNotFoundError:
            return None

    def write_key(self, key: str) -> None:
        """Keep the first key, readable by its owner alone; one of another database is moved to `admin.key.old`."""
        if self.key_file.exists():
            self.key_file.replace(self.key_file.with_name("admin.key.old"))
        _replace(self.key_file, key + "\n")


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
