"""Settings that are read anew while the gateway runs: when a file of theirs changes, or somebody asks."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trunkline._core import check_config
from trunkline.errors import SetupError
from trunkline.settings import Settings

CHECK_S = 1.0
"""How often the files are looked at."""
FIXED = ("listen", "control_url", "database", "spool_dir", "ca_file", "embedder", "threads")
"""Keys of the gateway's configuration that belong to its start; it takes on all others while it runs."""
_MADE = frozenset({"control_url", "database", "spool_dir", "embedder"})
"""Those that follow from other settings, or from none: they are told under the name of what they follow from."""
_ELSEWHERE = ("memory", "tools", "audit", "database_url", "gateway_database_url", "control_database_url")
"""Settings that other processes read at their start."""


class Reload:
    """Takes on new settings as a whole or not at all.

    `read` reads them, `make` turns them into the gateway's configuration, `apply` hands that over, and `tell` is given
    a line for a person. Raises nothing: what is wrong with new settings is told, and the old ones stay.
    """

    def __init__(
        self,
        settings: Settings,
        config: Mapping[str, Any],
        *,
        read: Callable[[], Settings],
        make: Callable[[Settings], Mapping[str, Any]],
        apply: Callable[[Mapping[str, Any]], None],
        tell: Callable[[str], None],
    ) -> None:
        self._config, self._settings = dict(config), settings
        self._read, self._make, self._apply, self._tell = read, make, apply, tell
        self._files = settings.files
        self._seen = _look(self._files)
        self._asked = threading.Event()
        self._ended = threading.Event()

    def ask(self) -> None:
        """Read the settings at the next look, changed or not. May be called from a signal handler."""
        self._asked.set()

    def watch(self) -> None:
        """Look from another thread until `end`."""

        def run() -> None:
            while not self._ended.is_set():
                self._asked.wait(CHECK_S)
                self.look()

        threading.Thread(target=run, name="reload", daemon=True).start()

    def end(self) -> None:
        """Stop looking."""
        self._ended.set()
        self._asked.set()

    def look(self) -> None:
        """Take on new settings if there are any."""
        asked = self._asked.is_set()
        self._asked.clear()
        seen = _look(self._files)
        if self._ended.is_set() or (seen == self._seen and not asked):
            return
        # As of before the reading: what is written during it is read again.
        self._seen = seen
        source = self._files[0] if self._files else "the environment"
        try:
            settings = self._read()
            # The embedder is a provider and a model too: what goes with it stays as all of `memory` does.
            made = self._make(settings.model_copy(update={"memory": self._settings.memory}))
            taken = {key: value for key, value in made.items() if key not in FIXED}
            config = taken | {key: self._config[key] for key in FIXED if key in self._config}
            text = json.dumps(config)
            check_config(text)
            if config != self._config:
                self._apply(config)
        except (SetupError, ValueError, OSError) as error:
            self._tell(f"{source} was not taken on, the settings of before stay: {error}")
            return
        if settings.files != self._files:
            self._files = settings.files
            self._seen = _look(self._files)
        before, self._config = self._config, config
        models = f"{len(config['models'])} models, {len(config['providers'])} providers"
        own = [key for key in FIXED if key not in _MADE and made.get(key) != before.get(key)]
        elsewhere = [key for key in _ELSEWHERE if getattr(settings, key) != getattr(self._settings, key)]
        later = sorted(own + elsewhere)
        more = f"; a restart takes on {', '.join(later)}" if later else ""
        self._tell(f"{source} was taken on: {models}{more}")


def _look(files: tuple[Path, ...]) -> tuple[object, ...]:
    """Return what tells one state of the files from another."""

    def state(path: Path) -> object:
        try:
            found = path.stat()
        except OSError:
            return None
        return (found.st_ino, found.st_size, found.st_mtime_ns)

    return tuple(state(path) for path in files)
