"""Measured windows, and the order they are taken in: by turns, and again where a neighbour made noise."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import product

import httpx

from bench import load
from bench.cases import Case, settled
from bench.load import Programs, Upstream
from bench.processes import PeakMemory, cpu_seconds

GATE = 1.5
"""A round counts while its direct p90 is at most this many times the best one seen."""


@dataclass(frozen=True)
class Window:
    """What each window of the run is like."""

    seconds: float
    warmup: float


@dataclass(frozen=True)
class Load:
    """One kind of load: connections in a closed loop, the size of each request's body, and how the answer comes."""

    connections: int
    body_bytes: int
    tokens_per_s: int = 0
    """The pace of the event streams that are asked for, whose latency is to their first token; 0: whole answers."""
    only: tuple[str, ...] = ()
    """The cases that it is put on; none named: all."""


@dataclass(frozen=True)
class Row:
    """One case under one load in one round. Latencies in µs; processor time in µs a request."""

    case: str
    connections: int
    body_bytes: int
    tokens_per_s: int
    round: int
    p50_us: float
    p90_us: float
    p99_us: float
    max_us: float
    requests_per_s: float
    cpu_us_per_request: float
    peak_rss_bytes: int
    requests: int
    errors: int
    problems: list[str] = field(default_factory=list)
    companion_cpu_us_per_request: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        """Return the row flat: `postgres_cpu_us_per_request` and its like beside the rest."""
        flat = asdict(self)
        for name, value in flat.pop("companion_cpu_us_per_request").items():
            flat[f"{name}_cpu_us_per_request"] = value
        return flat


@dataclass(frozen=True)
class Rounds:
    """All rows that count, and how hard they were to get."""

    rows: list[Row]
    repeated: int
    over_gate: int
    """Rounds that count although they missed the gate, because the repeats were used up."""


Measure = Callable[[Case, Load, int], Row]


def take(cases: Sequence[Case], loads: Sequence[Load], *, rounds: int, max_repeats: int, measure: Measure) -> Rounds:
    """Measure every case under every load `rounds` times; `cases[0]` is the direct one and gates the others.

    The direct case goes first in each round; the others follow in an order that moves on by one each round. A round
    whose direct p90 is over the gate goes back to the end of the queue, and so does one that a later, better direct
    p90 puts over it, up to `max_repeats` times in all.
    """
    direct, *others = cases
    queue = [(number, kind) for number, kind in product(range(1, rounds + 1), loads)]
    best: dict[Load, float] = {}
    done: dict[tuple[int, Load], list[Row]] = {}
    repeated = 0
    while queue:
        number, kind = queue.pop(0)
        first = measure(direct, kind, number)
        best[kind] = min(first.p90_us, best.get(kind, first.p90_us))
        if first.p90_us > GATE * best[kind] and repeated < max_repeats:
            repeated += 1
            queue.append((number, kind))
            continue
        turn = number % len(others) if others else 0
        turns = [case for case in others[turn:] + others[:turn] if not kind.only or case.name in kind.only]
        done[number, kind] = [first, *(measure(case, kind, number) for case in turns)]
        if not queue:
            for key in _over_gate(done, best)[: max_repeats - repeated]:
                repeated += 1
                del done[key]
                queue.append(key)
    rows = [row for key in sorted(done, key=lambda key: (key[0], loads.index(key[1]))) for row in done[key]]
    return Rounds(rows=rows, repeated=repeated, over_gate=len(_over_gate(done, best)))


def _over_gate(done: dict[tuple[int, Load], list[Row]], best: dict[Load, float]) -> list[tuple[int, Load]]:
    return [key for key, rows in done.items() if rows[0].p90_us > GATE * best[key[1]]]


def measure(case: Case, kind: Load, number: int, *, programs: Programs, upstream: Upstream, window: Window) -> Row:
    """Put one window of load on a case and return its row; whatever was lost on the way counts as an error."""
    arrived_before = _arrived(upstream)
    began = datetime.now(UTC)
    companions_before = {name: cpu_seconds([pid]) for name, pid in case.companions.items()}
    cpu_before = cpu_seconds(case.measured)
    with PeakMemory(case.measured) as memory:
        result = load.run(
            programs,
            case.url,
            headers=case.headers,
            arguments=[*case.arguments, *_stream_arguments(kind)],
            connections=kind.connections,
            body_bytes=kind.body_bytes,
            seconds=window.seconds,
            # A stream lasts two seconds: by then they end and begin evenly.
            warmup=max(window.warmup, 2.2) if kind.tokens_per_s else window.warmup,
        )
    problems = [f"{result.errors} failed requests, the first: {result.first_error}"] if result.errors else []
    lost = 0
    if not result.requests:
        lost += 1
        problems.append("no request was answered inside the window")
    arrived = _arrived(upstream) - arrived_before
    if arrived != result.sent:
        lost += abs(result.sent - arrived)
        problems.append(f"{result.sent} requests were sent, {arrived} reached the upstream")
    if kind.tokens_per_s and result.tokens != (result.sent - result.errors) * 2 * kind.tokens_per_s:
        lost += 1
        problems.append(f"{result.sent} streams brought {result.tokens} tokens")
    if case.recorded is not None:
        recorded = settled(case.recorded, began, result.sent)
        if recorded != result.sent:
            lost += abs(result.sent - recorded)
            problems.append(f"{result.sent} requests were sent, {recorded} were recorded")
    if case.upstream_sees is not None:
        last = httpx.get(f"{upstream.url}/_last", timeout=30.0).text
        if case.upstream_sees not in last:
            lost += 1
            problems.append(f"the last request reached the upstream without {case.upstream_sees!r}")
    # After the records have settled, so that work put off until later is not lost to the sum.
    cpu = cpu_seconds(case.measured) - cpu_before
    companions = {name: cpu_seconds([pid]) - companions_before[name] for name, pid in case.companions.items()}
    sent = max(result.sent, 1)
    return Row(
        case=case.name,
        connections=kind.connections,
        body_bytes=kind.body_bytes,
        tokens_per_s=kind.tokens_per_s,
        round=number,
        p50_us=result.p50_us,
        p90_us=result.p90_us,
        p99_us=result.p99_us,
        max_us=result.max_us,
        requests_per_s=result.requests_per_s,
        cpu_us_per_request=round(cpu / sent * 1e6, 2),
        peak_rss_bytes=memory.bytes,
        requests=result.requests,
        errors=result.errors + lost,
        problems=problems,
        companion_cpu_us_per_request={name: round(value / sent * 1e6, 2) for name, value in companions.items()},
    )


def _stream_arguments(kind: Load) -> list[str]:
    return ["--stream", "yes", "--model", f"paced-{kind.tokens_per_s}"] if kind.tokens_per_s else []


def _arrived(upstream: Upstream) -> int:
    count: int = httpx.get(f"{upstream.url}/_count", timeout=30.0).json()["requests"]
    return count
