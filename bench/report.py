"""From rows to the table and the bars: medians over rounds, with their spread.

"Added" is always taken inside a round (the case's figure less the direct one of the same round) and the median comes
after, so that a slow minute of the machine is not charged to the case that ran in it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from bench.rounds import Row
from bench.trunkline_setup import CACHED, CASES, PLAIN, REFRESH

MIB = 1024 * 1024
ORDER = ("direct", "nginx", *CASES, "litellm")

COLUMNS = (
    "case",
    "p50 µs",
    "p99 µs",
    "added p50 µs",
    "added p99 µs",
    "added p50 ÷ nginx's",
    "requests/s",
    "CPU µs/request",
    "Postgres CPU µs/request",
    "peak RSS MiB",
    "errors",
)

Figure = Callable[[Row], float]


@dataclass(frozen=True)
class Spread:
    """A median over rounds, and the lowest and highest round."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Summarise at least one value."""
        return cls(median(values), min(values), max(values))

    def text(self, digits: int = 0) -> str:
        """Return `median (low–high)`."""
        return f"{self.median:,.{digits}f} ({self.low:,.{digits}f}–{self.high:,.{digits}f})"


@dataclass(frozen=True)
class Bar:
    """One target, what was measured, and whether it was met; `met` is None where it could not be measured."""

    what: str
    target: str
    measured: str
    met: bool | None

    @property
    def verdict(self) -> str:
        """Return the one word of the table."""
        return {True: "met", False: "missed", None: "not measured"}[self.met]


def p50(row: Row) -> float:
    """Return a row's median latency in µs."""
    return row.p50_us


def p99(row: Row) -> float:
    """Return a row's 99th percentile of latency in µs."""
    return row.p99_us


def rate(row: Row) -> float:
    """Return a row's requests per second."""
    return row.requests_per_s


def processor(row: Row) -> float:
    """Return a row's processor time in µs a request."""
    return row.cpu_us_per_request


class Place(NamedTuple):
    """A load in the tables: connections, bytes of a request, and the pace of the streams asked for (0: none)."""

    connections: int
    body_bytes: int = 1024
    tokens_per_s: int = 0

    def title(self) -> str:
        """Return the heading of its table."""
        if self.tokens_per_s:
            return f"{self.connections} streams of {self.tokens_per_s} tokens/s: time to the first token"
        plural = "connection" if self.connections == 1 else "connections"
        return f"{self.connections} {plural}, bodies of {self.body_bytes / 1024:g} KiB"


ONE, FIFTY, STREAMS, OPEN_STREAMS = Place(1), Place(50), Place(500, tokens_per_s=100), Place(1000, tokens_per_s=10)


class Table:
    """The rows of a run, asked for by case and load."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = list(rows)
        self._by_place = {(row.case, _place(row), row.round): row for row in rows}

    def cases(self) -> list[str]:
        """Return the cases that were measured, in the order they are shown."""
        present = {row.case for row in self.rows}
        return [case for case in ORDER if case in present]

    def places(self) -> list[Place]:
        """Return the measured loads, streams last."""
        return sorted({_place(row) for row in self.rows}, key=lambda place: (place.tokens_per_s > 0, place))

    def of(self, case: str, place: Place) -> list[Row]:
        """Return the rows of a case under one load, a row a round."""
        return [row for row in self.rows if (row.case, _place(row)) == (case, place)]

    def compare(
        self, case: str, other: str, place: Place, *, figure: Figure, how: Callable[[float, float], float]
    ) -> Spread | None:
        """Set `case` against `other` round by round and summarise; None where no round has both."""
        pairs = []
        for row in self.of(case, place):
            partner = self._by_place.get((other, place, row.round))
            if partner is not None:
                pairs.append(how(figure(row), figure(partner)))
        return Spread.of(pairs) if pairs else None

    def added(self, case: str, place: Place, figure: Figure, base: str = "direct") -> Spread | None:
        """Return what `case` adds to the latency of `base`, in µs."""
        return self.compare(case, base, place, figure=figure, how=lambda mine, theirs: mine - theirs)

    def ratio(self, case: str, base: str, place: Place, figure: Figure) -> Spread | None:
        """Return a figure of `case` as a multiple of `base`'s."""
        return self.compare(case, base, place, figure=figure, how=lambda mine, theirs: mine / max(theirs, 1e-9))


def _place(row: Row) -> Place:
    return Place(row.connections, row.body_bytes, row.tokens_per_s)


def bars(rows: Sequence[Row]) -> list[Bar]:
    """Return the project's targets, judged by this run."""
    table = Table(rows)
    return [
        _added_ratio(table, "nginx", 1.3, "≤ 1.3 × nginx's added p50"),
        _added_ratio(table, "litellm", 1 / 250, "≤ 1/250 of LiteLLM's added p50"),
        _processor(table, FIFTY),
        _processor(table, Place(50, 16384)),
        _rate(table, "nginx", 0.6, "≥ 0.6 × nginx"),
        _rate(table, "litellm", 300, "≥ 300 × LiteLLM"),
        _first_token(table),
        _resident(table, FIFTY, 25),
        _resident(table, OPEN_STREAMS, 60),
        _memory(table, CACHED, 20),
        _memory(table, REFRESH, 300),
    ]


def _added_ratio(table: Table, other: str, limit: float, target: str) -> Bar:
    what = f"added p50, {ONE.title()}"
    ours, theirs = table.added(PLAIN, ONE, p50), table.added(other, ONE, p50)
    if ours is None or theirs is None:
        return Bar(what, target, "–", None)
    measured = f"{ours.median:+.0f} µs against {theirs.median:+.0f} µs"
    if theirs.median <= 0:
        return Bar(what, target, f"{measured}: noise is larger than what {other} adds", None)
    ratio = ours.median / theirs.median
    return Bar(what, target, f"{ratio:.3g} × ({measured})", ratio <= limit)


def _processor(table: Table, place: Place) -> Bar:
    what, target = f"CPU time a request, {place.title()}", "≤ 1.6 × nginx"
    ratio = table.ratio(PLAIN, "nginx", place, processor)
    if ratio is None:
        return Bar(what, target, "–", None)
    ours = median(row.cpu_us_per_request for row in table.of(PLAIN, place))
    return Bar(what, target, f"{ratio.median:.3g} × ({ours:.1f} µs)", ratio.median <= 1.6)


def _memory(table: Table, case: str, limit: float) -> Bar:
    what, target = f"{case}: p50 on top of {PLAIN}, {ONE.title()}", f"≤ {limit:.0f} µs"
    added = table.added(case, ONE, p50, base=PLAIN)
    if added is None:
        return Bar(what, target, "–", None)
    return Bar(what, target, f"{added.median:+.0f} µs", added.median <= limit)


def _rate(table: Table, other: str, limit: float, target: str) -> Bar:
    what = f"requests/s, {FIFTY.title()}"
    ratio = table.ratio(PLAIN, other, FIFTY, rate)
    if ratio is None:
        return Bar(what, target, "–", None)
    ours = median(row.requests_per_s for row in table.of(PLAIN, FIFTY))
    return Bar(what, target, f"{ratio.median:.3g} × ({ours:,.0f}/s)", ratio.median >= limit)


def _first_token(table: Table) -> Bar:
    what, target = f"added p99, {STREAMS.title()}", "≤ 1 ms"
    added = table.added(PLAIN, STREAMS, p99)
    if added is None:
        return Bar(what, target, "–", None)
    return Bar(what, target, f"{added.median / 1000:+.2f} ms", added.median <= 1000)


def _resident(table: Table, place: Place, limit: int) -> Bar:
    what, target = f"peak RSS of the gateway, {place.title()}", f"≤ {limit} MiB"
    peaks = [row.peak_rss_bytes for row in table.of(PLAIN, place)]
    if not peaks:
        return Bar(what, target, "–", None)
    return Bar(what, target, f"{max(peaks) / MIB:.1f} MiB", max(peaks) <= limit * MIB)


def markdown(rows: Sequence[Row], *, about: Sequence[str]) -> str:
    """Return the report: what it was measured on, a table a load, the bars, and every problem seen."""
    table = Table(rows)
    lines = ["# Gateway benchmark", "", *(f"- {line}" for line in about), ""]
    lines += ["Medians over rounds, with the lowest and highest round in brackets.", ""]
    for place in table.places():
        lines += [f"## {place.title()}", "", *_load_table(table, place), ""]
    lines += ["## Bars", "", *bar_table(bars(rows)), ""]
    problems = [
        f"- {row.case}, {_place(row).title()}, round {row.round}: {problem}" for row in rows for problem in row.problems
    ]
    lines += ["## Errors", "", *(problems or ["None."]), ""]
    return "\n".join(lines)


def bar_table(judged: Sequence[Bar]) -> list[str]:
    """Return the bars as the lines of a Markdown table."""
    lines = ["| what | bar | measured | |", "|---|---|---|---|"]
    lines += [f"| {bar.what} | {bar.target} | {bar.measured} | {bar.verdict} |" for bar in judged]
    return lines


def _load_table(table: Table, place: Place) -> list[str]:
    lines = [
        "| " + " | ".join(COLUMNS) + " |",
        "|---" + "|--:" * (len(COLUMNS) - 1) + "|",
    ]
    nginx = table.added("nginx", place, p50)
    for case in table.cases():
        rows = table.of(case, place)
        if not rows:
            continue
        added = None if case == "direct" else table.added(case, place, p50)
        added_p99 = None if case == "direct" else table.added(case, place, p99)
        ratio = added.median / nginx.median if added and nginx and nginx.median > 0 else None
        postgres = [
            row.companion_cpu_us_per_request["postgres"]
            for row in rows
            if "postgres" in row.companion_cpu_us_per_request
        ]
        cells = [
            case,
            Spread.of([row.p50_us for row in rows]).text(),
            Spread.of([row.p99_us for row in rows]).text(),
            added.text() if added else "–",
            added_p99.text() if added_p99 else "–",
            f"{ratio:.2f}" if ratio is not None else "–",
            Spread.of([row.requests_per_s for row in rows]).text(),
            Spread.of([row.cpu_us_per_request for row in rows]).text(1),
            Spread.of(postgres).text(1) if postgres else "–",
            f"{max(row.peak_rss_bytes for row in rows) / MIB:.1f}",
            f"{sum(row.errors for row in rows)}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines
