"""The demo's surroundings: a throw-away home, a scripted model and one Trunkline, of which nothing stays."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from trunkline.errors import SetupError
from trunkline.store.embedded import EmbeddedPostgres

_PORT = 4000
_STOP_S = 30.0
_CONFIGURATION = """\
providers:
  scripted: {{wire: openai_chat, base_url: "{model_url}/v1", api_key: none}}
models:
  claude-sonnet: {{provider: scripted, model: scripted-sonnet}}
"""
_KEPT_OUT = ("DATABASE_URL", "TRUNKLINE_", "_API_KEY")
"""Parts of variable names that must not reach the demo: it uses no account and no database of the user's."""


class World:
    """What runs during the demo, and how to kill and start it again."""

    def __init__(self, home: Path, examples: Path) -> None:
        self.home = home
        self.examples = examples
        self.base_url = ""
        self.model_url = ""
        self.processes: dict[str, int] = {}
        """Pids by name, of the last start."""
        self.port = _free_port()
        self._model: subprocess.Popen[str] | None = None
        self._up: subprocess.Popen[str] | None = None

    @property
    def key(self) -> str:
        """The key that the first start made."""
        return (self.home / "admin.key").read_text(encoding="utf-8").strip()

    def start_model(self) -> None:
        """Start the scripted model; a later start comes back under the same address and knows nothing of before."""
        port = self.model_url.rpartition(":")[2] or "0"
        self._model = self._spawn("model-server", "--json", "--port", port)
        self.model_url = self._first_line(self._model, "the scripted model")["base_url"]
        (self.home / "trunkline.yaml").write_text(_CONFIGURATION.format(model_url=self.model_url), encoding="utf-8")

    def start(self) -> dict[str, Any]:
        """Run `trunkline up` and return what it tells when it is ready."""
        self._up = self._spawn("up", "--json", "--listen", f"127.0.0.1:{self.port}")
        ready: dict[str, Any] = self._first_line(self._up, "`trunkline up`")
        self.base_url = ready["base_url"]
        self.processes = {"up": self._up.pid, **ready["processes"]}
        return ready

    def kill(self) -> dict[str, int]:
        """SIGKILL the model and every process of Trunkline, Postgres and its backends included; return whom."""
        victims = dict(self.processes)
        for number, backend in enumerate(_descendants(victims.get("postgres"))):
            victims[f"postgres backend {number + 1}"] = backend.pid
        if self._model is not None:
            victims["model"] = self._model.pid
        for pid in victims.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in (self._up, self._model):
            if process is not None:
                process.wait()
        psutil.wait_procs([p for pid in victims.values() if (p := _process(pid)) is not None], timeout=_STOP_S)
        self._up = self._model = None
        return victims

    def resident_bytes(self) -> dict[str, int]:
        """Return the resident memory of each process; shared pages of Postgres's processes are counted once."""
        resident = {}
        for name, pid in self.processes.items():
            process = _process(pid)
            if process is None:
                continue
            if name != "postgres":
                resident[name] = int(process.memory_info().rss)
                continue
            members = [process, *_descendants(pid)]
            resident[f"postgres ({len(members)} processes)"] = sum(_proportional(member) for member in members)
        return resident

    def close(self) -> None:
        """Stop everything and remove the home."""
        for process in (self._up, self._model):
            if process is not None and process.poll() is None:
                process.terminate()
        for process in (self._up, self._model):
            if process is None:
                continue
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pid in self.processes.values():
            left = _process(pid)
            if left is not None and "trunkline" in " ".join(left.cmdline()):
                left.kill()
        EmbeddedPostgres(self.home).destroy()
        shutil.rmtree(self.home, ignore_errors=True)

    def _spawn(self, *command: str) -> subprocess.Popen[str]:
        name = command[0]
        with (self.home / f"{name}.err").open("ab") as errors:
            return subprocess.Popen(  # noqa: S603 (ourselves)
                [sys.executable, "-P", "-m", "trunkline", *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=_environment(os.environ, self.home),
                cwd=self.home,
                start_new_session=True,
            )

    def _first_line(self, process: subprocess.Popen[str], what: str) -> Any:
        line = process.stdout.readline() if process.stdout else ""
        if line:
            return json.loads(line)
        process.wait()
        said = "".join(path.read_text(encoding="utf-8", errors="replace") for path in self.home.glob("*.err"))
        raise SetupError(f"{what} did not start: {said.strip() or f'exit status {process.returncode}'}")


@contextlib.contextmanager
def open_world(examples: Path, tell: Callable[[str], None]) -> Iterator[World]:
    """Make a throw-away home; at the end, on failure and on Ctrl-C too, stop everything and remove it."""
    home = Path(tempfile.mkdtemp(prefix="trunkline-demo-"))
    home.chmod(0o711)  # where root runs this, Postgres runs as another user, who passes through
    world = World(home, examples)
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        if world.port != _PORT:
            tell(f"Port {_PORT} is taken; the demo uses {world.port}.")
        yield world
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave anything behind
        try:
            world.close()
        finally:
            signal.signal(signal.SIGTERM, before)
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _environment(environ: Mapping[str, str], home: Path) -> dict[str, str]:
    kept = {name: value for name, value in environ.items() if not any(part in name for part in _KEPT_OUT)}
    return kept | {"TRUNKLINE_HOME": str(home)}


def _free_port() -> int:
    for port in (_PORT, 0):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise SetupError("there is no free port on 127.0.0.1.")


def _process(pid: int) -> psutil.Process | None:
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None


def _descendants(pid: int | None) -> list[psutil.Process]:
    process = None if pid is None else _process(pid)
    return [] if process is None else process.children(recursive=True)


def _proportional(process: psutil.Process) -> int:
    """Return the process's proportional share (Linux), else its resident memory; 0 if it just ended."""
    try:
        full = process.memory_full_info()
        return int(getattr(full, "pss", full.rss))
    except psutil.AccessDenied:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
