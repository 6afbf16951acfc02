"""Run the gateway benchmark: `python -m bench.gateway` (README.md tells method and options)."""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from os import environ, getloadavg
from pathlib import Path

from bench import cases, load, machine, report, rounds, trunkline_setup
from bench.cases import Case
from bench.load import BENCH, Upstream
from bench.processes import CaseUnavailable, HarnessError
from bench.rounds import Load, Rounds, Row, Window

CONNECTIONS = [1, 50]
BODY_BYTES = [1024, 16384]
PROXIES = ("nginx", trunkline_setup.PLAIN)
HEAVY = [
    Load(1000, 1024, only=PROXIES),
    Load(500, 1024, tokens_per_s=100, only=PROXIES),
    Load(1000, 1024, tokens_per_s=10, only=PROXIES),
]
"""Many connections and many streams: what the bars on them need, no more."""
ROUNDS = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status: 0, 1 when requests of Trunkline were lost, 2 when the benchmark could not run."""
    # A terminated harness must still end what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return _run(_options(arguments))
    except HarnessError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.gateway", description="Benchmark the gateway.")
    parser.add_argument("--rounds", type=int, help="rounds that must count (5)")
    parser.add_argument("--seconds", type=float, help="measured seconds of each window (3)")
    parser.add_argument("--warmup", type=float, help="seconds of load before each window (0.5)")
    parser.add_argument("--cases", type=_names, help="comma-separated; all of: " + ",".join(report.ORDER))
    parser.add_argument("--connections", type=_numbers, help="comma-separated (1,50)")
    parser.add_argument("--body-bytes", type=_numbers, help="comma-separated (1024,16384)")
    beside = Path(sys.executable).with_name("trunkline")
    parser.add_argument("--trunkline", type=Path, default=beside, help="the program to measure (%(default)s)")
    parser.add_argument("--session", help="session id that the memory cases send (none: the gateway tells sessions)")
    parser.add_argument("--out", type=Path, help="folder for gateway.json and gateway.md (a full run: bench/results)")
    parser.add_argument("--quick", action="store_true", help="one short round, to see that all of it works")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (1 if options.quick else ROUNDS)
    partial_run = any((options.cases, options.connections, options.body_bytes)) or options.rounds < ROUNDS
    options.seconds = options.seconds or (0.5 if options.quick else 3.0)
    options.warmup = options.warmup if options.warmup is not None else (0.1 if options.quick else 0.5)
    options.out = options.out or (None if partial_run else BENCH / "results")
    options.cases = options.cases or [
        name for name in report.ORDER if name != "litellm" or environ.get("BENCH_LITELLM") == "1"
    ]
    options.loads = [
        Load(connections, body_bytes)
        for connections in options.connections or CONNECTIONS
        for body_bytes in options.body_bytes or BODY_BYTES
    ]
    if not (options.connections or options.body_bytes):
        options.loads += HEAVY
    return options


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in report.ORDER]:
        raise argparse.ArgumentTypeError(f"no such case: {', '.join(unknown)}; there are {', '.join(report.ORDER)}")
    return names


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _run(options: argparse.Namespace) -> int:
    programs = load.build()
    busy = getloadavg()[0]
    left_out: list[str] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="trunkline-bench-")))
        # For root, the embedded Postgres runs as another user, who must be able to pass through to its home.
        folder.chmod(0o711)
        upstream = stack.enter_context(load.upstream(programs, folder))
        measured = _start(stack, options, upstream, folder, left_out)
        window = Window(options.seconds, options.warmup)
        first_calls = [_first_calls(case, programs, upstream) for case in measured]
        result = rounds.take(
            measured,
            options.loads,
            rounds=options.rounds,
            max_repeats=2 * options.rounds,
            measure=partial(_measure_aloud, programs=programs, upstream=upstream, window=window),
        )
    _publish(result, options, left_out, busy)
    rows = [*first_calls, *result.rows]
    lost = sum(row.errors for row in rows if row.case in trunkline_setup.CASES)
    if lost:
        print(f"bench: {lost} errors in the Trunkline cases", file=sys.stderr)
    return 1 if lost else 0


def _start(
    stack: ExitStack, options: argparse.Namespace, upstream: Upstream, folder: Path, left_out: list[str]
) -> list[Case]:
    """Start what each case needs, and return the cases with the direct one first."""
    made = [cases.direct(upstream)]
    wanted: list[str] = options.cases
    if "nginx" in wanted:
        try:
            made.append(stack.enter_context(cases.nginx(upstream, folder)))
        except CaseUnavailable as error:
            left_out.append(f"nginx left out: {error}")
    if names := [name for name in wanted if name in trunkline_setup.CASES]:
        up = stack.enter_context(
            trunkline_setup.trunkline(options.trunkline, trunkline_setup.settings(upstream), folder)
        )
        for case in trunkline_setup.cases(up, names, options.session):
            trunkline_setup.prove_memory(case, upstream)
            made.append(case)
    if "litellm" in wanted:
        try:
            made.append(stack.enter_context(cases.litellm(upstream, folder, BENCH / ".litellm-venv")))
        except CaseUnavailable as error:
            left_out.append(f"litellm left out: {error}")
    for line in left_out:
        print(line, file=sys.stderr)
    return made


def _first_calls(case: Case, programs: load.Programs, upstream: Upstream) -> Row:
    """Let a case do what it does only once (LiteLLM imports for a second); the row counts only for its errors."""
    row = rounds.measure(case, Load(50, 1024), 0, programs=programs, upstream=upstream, window=Window(1.0, 1.0))
    if row.errors:
        print(f"first calls of {case.name}: {row.errors} errors: {'; '.join(row.problems)}", file=sys.stderr)
    return row


def _measure_aloud(
    case: Case, kind: Load, number: int, *, programs: load.Programs, upstream: Upstream, window: Window
) -> Row:
    row = rounds.measure(case, kind, number, programs=programs, upstream=upstream, window=window)
    print(
        f"round {number}  {kind.connections:>4} × "
        + (f"{kind.tokens_per_s:>3} token/s" if kind.tokens_per_s else f"{kind.body_bytes:>5} byte ")
        + f"  {case.name:<24} "
        f"p50 {row.p50_us:>9,.1f} µs  p99 {row.p99_us:>10,.1f} µs  {row.requests_per_s:>9,.0f}/s  "
        f"CPU {row.cpu_us_per_request:>7,.1f} µs  RSS {row.peak_rss_bytes / report.MIB:>6.1f} MiB"
        + (f"  ERRORS {row.errors}: {'; '.join(row.problems)}" if row.errors else ""),
        flush=True,
    )
    return row


def _publish(result: Rounds, options: argparse.Namespace, left_out: list[str], busy: float) -> None:
    """Print the report, and write it where asked."""
    here = machine.describe()
    date = datetime.now(UTC).date().isoformat()
    rounds_told = f"{options.rounds} rounds of {options.seconds:g} s after {options.warmup:g} s of warm-up"
    gate_told = f"{result.repeated} repeated because the direct p90 was over {rounds.GATE} × the best one"
    if result.over_gate:
        gate_told += f", {result.over_gate} kept though over it (no repeats left)"
    about = [
        f"{date}; {machine.sentence(here)}; load average {busy:.1f} before the run",
        f"{rounds_told}; {gate_told}",
        *left_out,
    ]
    text = report.markdown(result.rows, about=about)
    print("\n" + text)
    folder: Path | None = options.out
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "machine": here,
        "date": date,
        "settings": {"rounds": options.rounds, "seconds": options.seconds, "warmup": options.warmup},
        "revision": _revision(),
        "load_average_before": busy,
        "repeated_rounds": result.repeated,
        "rounds_over_gate": result.over_gate,
        "left_out": left_out,
        "bars": [asdict(bar) for bar in report.bars(result.rows)],
        "rows": [row.as_json() for row in result.rows],
    }
    (folder / "gateway.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    (folder / "gateway.md").write_text(text)
    print(f"written: {folder / 'gateway.json'}, {folder / 'gateway.md'}")


def _revision() -> str | None:
    """Return the commit that was measured, or None outside a checkout."""
    command = ["git", "-C", str(BENCH), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


if __name__ == "__main__":
    sys.exit(main())
