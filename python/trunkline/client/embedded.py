"""A Trunkline of the program's own, for agents that run where no server is given: a child process that ends with it.

What it keeps is in TRUNKLINE_HOME (default `~/.trunkline`), as with `trunkline up`, which uses the same home.
"""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from trunkline.client.connection import Connection, resolve
from trunkline.errors import SetupError

_STOP_S: Final = 60.0


def connection(environ: Mapping[str, str]) -> Connection:
    """Return the Trunkline that the environment names, or that runs here, or else one started for this program.

    Raises SetupError where it cannot start, and where no model provider is configured for it.
    """
    if environ.get("TRUNKLINE_BASE_URL"):
        return resolve(None, None, environ)
    with suppress(SetupError):
        found = resolve(None, None, environ)
        if _answers(found.base_url):
            return found
    return _OURS.connection(environ)


def _answers(base_url: str) -> bool:
    try:
        return httpx.get(f"{base_url}/healthz", timeout=2.0, trust_env=False).is_success
    except httpx.HTTPError:
        return False


@dataclass
class _Embedded:
    """The program's own Trunkline: one, however many agents run."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    process: subprocess.Popen[str] | None = None
    found: Connection | None = None

    def connection(self, environ: Mapping[str, str]) -> Connection:
        """Return it, started if it does not run. Raises SetupError."""
        with self.lock:
            if self.found is None or self.process is None or self.process.poll() is not None:
                self.process, ready = _start(environ)
                atexit.register(_stop, self.process)
                key = Path(ready["key_file"]).read_text(encoding="utf-8").strip()
                self.found = Connection(ready["base_url"], key)
            return self.found


_OURS: Final = _Embedded()
"""Nothing runs until an agent does. It is the program's and not an object's: two agents share it."""


def _start(environ: Mapping[str, str]) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    # A session of its own: Ctrl-C is the program's, and the end of its standard input tells it to go.
    process = subprocess.Popen(
        [sys.executable, "-m", "trunkline", "up", "--json", "--listen", "127.0.0.1:0", "--until-input-ends"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(environ),
        start_new_session=True,
    )
    if process.stdout is None or process.stderr is None:
        raise SetupError("The pipes to the embedded Trunkline could not be made.")
    line = process.stdout.readline()
    if not line:
        said = process.communicate()[1].strip().splitlines()
        raise SetupError(f"The embedded Trunkline did not start: {_told(said[-1]) if said else 'it said nothing'}")
    threading.Thread(target=_drain, args=[process.stderr], name="trunkline", daemon=True).start()
    ready: dict[str, Any] = json.loads(line)
    return process, ready


def _told(line: str) -> str:
    """Return the message in a line of `--json`'s errors, or the line."""
    try:
        return str(json.loads(line)["message"])
    except (ValueError, KeyError, TypeError):
        return line


def _drain(pipe: Any) -> None:
    """Read what it notes, so that it never waits; its logs have it too."""
    with suppress(ValueError, OSError):
        for _ in pipe:
            pass


def _stop(process: subprocess.Popen[str]) -> None:
    if process.stdin is not None:
        with suppress(OSError):
            process.stdin.close()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
