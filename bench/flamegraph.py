"""Draw where the gateway's processor time goes under load: `python -m bench.flamegraph` writes an SVG."""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from bench import load, trunkline_setup
from bench.load import BENCH
from bench.processes import HarnessError

SAMPLES_PER_S = 499
"""A prime, so that no timer of the program is in step with it."""
INFERNO = "0.12"


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status: 0, or 2 when something that is needed is not there."""
    parser = argparse.ArgumentParser(prog="python -m bench.flamegraph", description=__doc__)
    parser.add_argument("--case", choices=trunkline_setup.CASES, default=trunkline_setup.PLAIN)
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--body-bytes", type=int, default=1024)
    parser.add_argument(
        "--tokens-per-s", type=int, choices=(0, 10, 100), default=0, help="streams of this pace (0: none)"
    )
    parser.add_argument("--seconds", type=float, default=5.0)
    beside = Path(sys.executable).with_name("trunkline")
    parser.add_argument("--trunkline", type=Path, default=beside, help="the program to profile (%(default)s)")
    parser.add_argument("--out", type=Path, default=BENCH / "results" / "flamegraph.svg")
    try:
        _run(parser.parse_args(arguments))
    except HarnessError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    return 0


def _run(options: argparse.Namespace) -> None:
    perf, inferno = _perf(), _inferno()
    programs = load.build()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="trunkline-flamegraph-")))
        folder.chmod(0o711)
        upstream = stack.enter_context(load.upstream(programs, folder))
        up = stack.enter_context(
            trunkline_setup.trunkline(options.trunkline, trunkline_setup.settings(upstream), folder)
        )
        case = trunkline_setup.cases(up, [options.case], session=None)[0]
        samples = folder / "perf.data"
        # Frame pointers are not kept in a release build: the stacks are unwound from copies of them.
        record = [perf, "record", "-q", "-F", str(SAMPLES_PER_S), "--call-graph", "dwarf,16384", "-o", str(samples)]
        with subprocess.Popen([*record, "-p", str(case.measured[0])], stderr=subprocess.DEVNULL) as recording:
            try:
                paced = ["--stream", "yes", "--model", f"paced-{options.tokens_per_s}"] if options.tokens_per_s else []
                load.run(
                    programs,
                    case.url,
                    headers=case.headers,
                    arguments=[*case.arguments, *paced],
                    connections=options.connections,
                    body_bytes=options.body_bytes,
                    seconds=options.seconds,
                    warmup=0.5,
                )
            finally:
                recording.terminate()
        script = subprocess.run([perf, "script", "-i", str(samples)], capture_output=True, check=True).stdout
    folded = subprocess.run([inferno / "inferno-collapse-perf"], input=script, capture_output=True, check=True).stdout
    title = f"trunkline gateway: {options.case}, {options.connections} connections, {options.body_bytes} bytes"
    if options.tokens_per_s:
        title += f", streams of {options.tokens_per_s} tokens/s"
    draw = [str(inferno / "inferno-flamegraph"), "--title", title]
    drawn = subprocess.run(draw, input=folded, capture_output=True, check=True).stdout
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_bytes(drawn)
    print(f"written: {options.out}")


def _perf() -> str:
    """Find perf, or install Debian's package when we may; raise HarnessError otherwise."""
    if shutil.which("perf") is None and os.geteuid() == 0 and shutil.which("apt-get"):
        print("perf is missing: installing Debian's package")
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["apt-get", "update", "-q"], ["apt-get", "install", "-y", "-q", "linux-perf"]):
            subprocess.run(command, env=environment, check=False, capture_output=True)
    found = shutil.which("perf")
    if found is None:
        raise HarnessError("perf is not installed: `apt-get install linux-perf` as root brings it")
    return found


def _inferno() -> Path:
    """Return the folder of inferno's programs, which cargo installs there the first time."""
    root = BENCH / "work" / "tools"
    if not (root / "bin" / "inferno-flamegraph").exists():
        command = [
            "cargo",
            "install",
            "inferno",
            "--version",
            f"^{INFERNO}",
            "--locked",
            "--root",
            str(root),
            "--quiet",
        ]
        try:
            subprocess.run(command, check=True)
        except (FileNotFoundError, subprocess.CalledProcessError) as error:
            raise HarnessError("cargo could not install inferno, which draws the picture") from error
    return root / "bin"


if __name__ == "__main__":
    sys.exit(main())
