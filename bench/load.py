"""The Rust programs of the benchmark: built, started, and their one line of output read."""

import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.processes import HarnessError, running, tail

BENCH = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Programs:
    """The paths of the built binaries."""

    load: Path
    upstream: Path
    gaps: Path


@dataclass(frozen=True)
class Upstream:
    """The provider that answers at once: its process and its address."""

    pid: int
    url: str


@dataclass(frozen=True)
class LoadResult:
    """What one run of the load client saw. Latencies are in µs, over the requests of the measured window.

    `sent` counts all requests of the run, warm-up included; `errors` all failures of the run; `tokens` those of
    all whole streams.
    """

    requests: int
    sent: int
    tokens: int
    errors: int
    errors_by_kind: dict[str, int]
    first_error: str | None
    p50_us: float
    p90_us: float
    p99_us: float
    max_us: float
    requests_per_s: float


def ends_cores() -> tuple[int, int] | tuple[None, None]:
    """Return the cores that load client and upstream stay on: the first and the last of ours, if there are two.

    Left to the scheduler, the two ends of one connection share a core in some windows and not in others, which moves
    the direct p50 between about 25 and 80 µs. Apart, every window pays the cross-core wake. What stands between them
    is never pinned.
    """
    cores = sorted(os.sched_getaffinity(0))
    return (cores[0], cores[-1]) if len(cores) > 1 else (None, None)


def build() -> Programs:
    """Build the load client and the upstream in release mode; cargo prints its progress."""
    target = Path(os.environ.get("CARGO_TARGET_DIR") or BENCH / "work" / "target").absolute()
    try:
        subprocess.run(["cargo", "build", "--release", "--locked", "--target-dir", str(target)], cwd=BENCH, check=True)
    except FileNotFoundError as error:
        raise HarnessError("cargo was not found: install a Rust toolchain (https://rustup.rs) and try again") from error
    except subprocess.CalledProcessError as error:
        raise HarnessError("the load client did not build; cargo's output above says why") from error
    built = target / "release"
    return Programs(load=built / "load", upstream=built / "upstream", gaps=built / "gaps")


@contextmanager
def upstream(programs: Programs, folder: Path) -> Iterator[Upstream]:
    """Run the upstream on a free port for as long as the block lasts."""
    log = folder / "upstream.log"
    with running([str(programs.upstream)], log=log, core=ends_cores()[1]) as process:
        end = time.monotonic() + 10
        while not (first := log.read_text().partition("\n"))[1]:
            if process.poll() is not None or time.monotonic() > end:
                raise HarnessError(f"the upstream did not start:\n{tail(log)}")
            time.sleep(0.02)
        yield Upstream(pid=process.pid, url=f"http://127.0.0.1:{first[0].rpartition(' ')[2]}")


def run(
    programs: Programs,
    url: str,
    *,
    headers: Sequence[str],
    arguments: Sequence[str] = (),
    connections: int,
    body_bytes: int,
    seconds: float,
    warmup: float,
    expect: str = "The order left",
) -> LoadResult:
    """Put load on `url` (closed loop), GET where there is no body, and return what the client saw."""
    command = [str(programs.load), "--url", url, "--expect-substring", expect, *arguments]
    command += ["--connections", str(connections), "--body-bytes", str(body_bytes)]
    command += ["--seconds", str(seconds), "--warmup", str(warmup)]
    for header in headers:
        command += ["--header", header]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            if (core := ends_cores()[0]) is not None:
                os.sched_setaffinity(process.pid, {core})
            output, complaint = process.communicate(timeout=seconds + warmup + 60)
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise HarnessError(f"the load client failed: {complaint.strip()}")
    report = json.loads(output)
    return LoadResult(**{name: report[name] for name in LoadResult.__dataclass_fields__})
