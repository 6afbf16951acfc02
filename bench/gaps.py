"""How evenly small streams' events come while large calls with memory are under way (README.md, "Large calls")."""

import argparse
import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench import load, trunkline_setup
from bench.cases import CHAT, Case
from bench.load import Programs, Upstream
from bench.processes import HarnessError

STREAMS = 20
EVERY_MS = 200
LARGE_BYTES = 400_000


def main() -> int:
    """Return the exit status: 0, or 2 where the measurement could not run."""
    parser = argparse.ArgumentParser(prog="python -m bench.gaps", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="rounds, each of direct, without and with large calls")
    parser.add_argument("--seconds", type=float, default=10, help="seconds of each measurement")
    parser.add_argument("--trunkline", type=Path, default=Path(sys.executable).with_name("trunkline"))
    options = parser.parse_args()
    try:
        return _run(options)
    except HarnessError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:
    programs = load.build()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="trunkline-bench-")))
        # For root, the embedded Postgres runs as another user, who must be able to pass through to its home.
        folder.chmod(0o711)
        upstream = stack.enter_context(load.upstream(programs, folder))
        up = stack.enter_context(
            trunkline_setup.trunkline(options.trunkline, trunkline_setup.settings(upstream), folder)
        )
        plain, memory = trunkline_setup.cases(up, [trunkline_setup.PLAIN, trunkline_setup.REFRESH], None)
        for number in range(options.rounds):
            for name, arguments in _measurements(upstream, plain, memory):
                told = _gaps(programs, arguments, options.seconds)
                print(f"{number + 1} {name:24} {json.dumps(told)}", flush=True)
    return 0


def _measurements(upstream: Upstream, plain: Case, memory: Case) -> list[tuple[str, list[str]]]:
    through = ["--url", plain.url, *_headers("--header", plain)]
    large = ["--large-every-ms", str(EVERY_MS), "--large-bytes", str(LARGE_BYTES)]
    return [
        ("direct", ["--url", upstream.url + CHAT]),
        ("direct, large calls", ["--url", upstream.url + CHAT, *large]),
        ("trunkline", through),
        ("trunkline, large calls", [*through, *large, *_headers("--large-header", memory)]),
    ]


def _headers(option: str, case: Case) -> list[str]:
    return [word for header in case.headers for word in (option, header)]


def _gaps(programs: Programs, arguments: list[str], seconds: float) -> dict[str, Any]:
    command = [str(programs.gaps), "--streams", str(STREAMS), "--seconds", str(seconds), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False)
    if done.returncode != 0:
        raise HarnessError(f"the client failed: {done.stderr.strip()}")
    told: dict[str, Any] = json.loads(done.stdout)
    return told


if __name__ == "__main__":
    sys.exit(main())
