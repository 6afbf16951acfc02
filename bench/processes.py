"""Processes the benchmark starts, and what the kernel says they used."""

import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class HarnessError(Exception):
    """The benchmark cannot go on; the message says what to do."""


class CaseUnavailable(HarnessError):
    """One case cannot run on this machine; the others can."""


@contextmanager
def running(
    command: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    grace_s: float = 20.0,
    core: int | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `command` for as long as the block lasts; its output goes to `log`.

    It gets a session of its own, so that Ctrl-C reaches only the harness, which then ends it by its id: SIGTERM first,
    SIGKILL after `grace_s` seconds. With `core` it stays on that one.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=folder, start_new_session=True
        )
    try:
        if core is not None:
            os.sched_setaffinity(process.pid, {core})
        yield process
    finally:
        process.terminate()
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for_answer(url: str, process: subprocess.Popen[bytes], log: Path, *, seconds: float) -> None:
    """Wait until `url` answers 200; raise HarnessError with the end of `log` when it does not in time."""
    end = time.monotonic() + seconds
    why = "it did not answer"
    while time.monotonic() < end:
        if process.poll() is not None:
            why = f"it ended with status {process.returncode}"
            break
        try:
            answer = httpx.get(url, timeout=5.0)
            if answer.status_code == 200:
                return
            why = f"it answered {answer.status_code}: {answer.text[:200]}"
        except httpx.HTTPError as error:
            why = f"{type(error).__name__}: {error}"
        time.sleep(0.05)
    raise HarnessError(f"{url} was not ready within {seconds:.0f} s ({why}). The end of its log:\n{tail(log)}")


def tail(log: Path, lines: int = 20) -> str:
    """Return the last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def free_port() -> int:
    """Return a port of the loopback address that nothing listens on just now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def family(roots: Sequence[int]) -> list[int]:
    """Return `roots` and all their living descendants (nginx's workers, Postgres's backends)."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (fields := _stat(int(folder.name))) is not None:
            children.setdefault(int(fields[1]), []).append(int(folder.name))
    found: list[int] = []
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting.extend(children.get(pid, []))
    return found


def cpu_seconds(roots: Sequence[int]) -> float:
    """Return the processor time of `roots` and their descendants, all threads, user and system.

    Descendants that have ended count through the parent that waited for them. Resolution: one tick, 10 ms.
    """
    ticks = 0
    for pid in family(roots):
        if (fields := _stat(pid)) is not None:
            # utime, stime, cutime, cstime: proc(5) numbers them 14 to 17, and `fields` begins at 3.
            ticks += sum(int(value) for value in fields[11:15])
    return ticks / TICKS_PER_S


def _stat(pid: int) -> list[str] | None:
    """Return /proc/PID/stat from its third field on, or None when the process is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text.rpartition(")")[2].split()


def resident_bytes(pids: Sequence[int]) -> int:
    """Return the sum of VmRSS over `pids`; pages shared between them count once each."""
    total = 0
    for pid in pids:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        for line in status.splitlines():
            if line.startswith("VmRSS:"):
                total += int(line.split()[1]) * 1024
    return total


class PeakMemory:
    """Samples resident memory every 50 ms while the block lasts; `bytes` is the highest sample."""

    def __init__(self, roots: Sequence[int]) -> None:
        self.bytes = 0
        self._pids = family(roots)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="peak-memory")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        while True:
            self.bytes = max(self.bytes, resident_bytes(self._pids))
            if self._done.wait(0.05):
                return
