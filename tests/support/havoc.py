"""All parts of a Trunkline as processes that are killed, frozen and started again at random, by a seed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trunkline.store.embedded import EmbeddedPostgres
from trunkline.store.postmaster import read_postmaster


@dataclass
class Process:
    """A process of `trunkline.processes` that can be started again; each life gets the configuration of its own."""

    name: str
    log: Path
    configuration: Callable[[int], dict[str, Any]]
    """Made of the number of the life, from 1."""
    descriptors: tuple[int, ...] = ()
    lives: int = 0
    popen: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        """Begin a life."""
        self.lives += 1
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen(
                [sys.executable, "-P", "-m", f"trunkline.processes.{self.name}"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=self.descriptors,
            )
        assert self.popen.stdin is not None
        self.popen.stdin.write(json.dumps(self.configuration(self.lives)).encode() + b"\n")
        self.popen.stdin.flush()

    def kill(self) -> None:
        """End it as the kernel does when memory is short."""
        assert self.popen is not None
        self.popen.kill()
        self.popen.wait()
        assert self.popen.stdin is not None
        self.popen.stdin.close()

    def freeze(self) -> None:
        """Stop it where it stands."""
        assert self.popen is not None
        self.popen.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self.popen is not None
        self.popen.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """Tell it to stop, and see to it that it does."""
        if self.popen is None or self.popen.poll() is not None:
            return
        self.popen.terminate()
        try:
            self.popen.wait(20)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()


@dataclass
class Postgres:
    """The database server, to be killed like the others."""

    server: EmbeddedPostgres
    lives: int = 1

    @property
    def _pid(self) -> int:
        postmaster = read_postmaster(self.server.data)
        assert postmaster is not None
        return postmaster.pid

    def start(self) -> None:
        """Recover it."""
        self.lives += 1
        self.server.start()

    def kill(self) -> None:
        """End the postmaster; its children notice by themselves."""
        os.kill(self._pid, signal.SIGKILL)

    def freeze(self) -> None:
        """Stop the postmaster: it takes no new connections."""
        os.kill(self._pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self._pid, signal.SIGCONT)


class Havoc:
    """Does to parts what happens to parts. `done` counts it, by part and deed."""

    def __init__(self, seed: int, parts: dict[str, list[Process | Postgres]]) -> None:
        self._random = random.Random(seed)
        self._parts = parts
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._rage, name="havoc")
        self._failure: BaseException | None = None
        self.done: Counter[str] = Counter()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, with everything running again."""
        self._stop.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _rage(self) -> None:
        try:
            while not self._stop.wait(self._random.uniform(0.2, 1.2)):
                kind = self._random.choices(list(self._parts), weights=_weights(self._parts))[0]
                part = self._random.choice(self._parts[kind])
                if self._random.random() < 0.6:
                    self.done[f"{kind} killed"] += 1
                    part.kill()
                    self._stop.wait(self._random.uniform(0.0, 1.5))
                    part.start()
                else:
                    self.done[f"{kind} frozen"] += 1
                    part.freeze()
                    self._stop.wait(self._random.uniform(0.5, 7.0))
                    part.thaw()
        except BaseException as failure:  # noqa: BLE001 (raised by `stop`)
            self._failure = failure


def _weights(parts: dict[str, list[Process | Postgres]]) -> list[int]:
    return [1 if kind == "postgres" else 2 * len(group) for kind, group in parts.items()]


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Tell whether a condition comes to hold."""
    give_up = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.05)
    return True
