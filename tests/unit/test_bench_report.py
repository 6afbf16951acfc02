import json
import sys
from collections.abc import Iterator
from pathlib import Path

# The benchmark is not part of the installed package.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench import report, trunkline_setup
from bench.cases import Case
from bench.report import Spread, Table
from bench.rounds import Load, Row, take


def row(
    case: str,
    number: int = 1,
    *,
    connections: int = 1,
    body_bytes: int = 1024,
    tokens_per_s: int = 0,
    cpu: float = 10,
    p50: float = 80,
    p90: float = 100,
    rate: float = 1000,
    rss: int = 0,
    errors: int = 0,
) -> Row:
    return Row(
        case=case,
        connections=connections,
        body_bytes=body_bytes,
        tokens_per_s=tokens_per_s,
        round=number,
        p50_us=p50,
        p90_us=p90,
        p99_us=p50 * 3,
        max_us=p50 * 9,
        requests_per_s=rate,
        cpu_us_per_request=cpu,
        peak_rss_bytes=rss,
        requests=100,
        errors=errors,
        problems=["2 failed requests, the first: status 500: boom"] if errors else [],
        companion_cpu_us_per_request={"postgres": 7.5} if case.startswith("trunkline") else {},
    )


def verdicts(rows: list[Row]) -> dict[tuple[str, str], str]:
    return {(bar.what, bar.target): bar.verdict for bar in report.bars(rows)}


def test_added_latency_is_taken_inside_each_round() -> None:
    rows = []
    # The second round ran on a slow machine: the case added the same as ever.
    for number, direct in enumerate([80, 300, 90], start=1):
        rows += [row("direct", number, p50=direct), row("nginx", number, p50=direct + 40)]
    added = Table(rows).added("nginx", report.ONE, report.p50)
    assert added == Spread(median=40, low=40, high=40)


def test_a_round_without_its_direct_window_adds_nothing() -> None:
    assert Table([row("nginx")]).added("nginx", report.ONE, report.p50) is None


def test_bars_are_judged_at_their_limits() -> None:
    def judged(*, trunkline: float, memory: float, rate: float, cpu: float, first: float, rss: int) -> list[str]:
        rows = [
            row("direct", p50=100),
            row("nginx", p50=140),
            row("litellm", p50=13_100),
            row("trunkline", p50=trunkline),
            row("trunkline-memory-cached", p50=trunkline + memory),
            row("trunkline-memory-refresh", p50=trunkline + 15 * memory),
            row("nginx", connections=50, rate=20_000, cpu=20),
            row("litellm", connections=50, rate=39),
            row("trunkline", connections=50, rate=rate, cpu=cpu, rss=rss),
            row("nginx", connections=50, body_bytes=16384, cpu=20),
            row("trunkline", connections=50, body_bytes=16384, cpu=cpu),
            # A row's p99 is three times its p50 here.
            row("direct", connections=500, tokens_per_s=100, p50=100),
            row("trunkline", connections=500, tokens_per_s=100, p50=100 + first / 3),
            row("trunkline", connections=1000, tokens_per_s=10, rss=rss + 35 * report.MIB),
        ]
        return [bar.verdict for bar in report.bars(rows)]

    best = judged(trunkline=152, memory=20, rate=12_000, cpu=32, first=999, rss=25 * report.MIB)
    worst = judged(trunkline=153, memory=21, rate=11_600, cpu=32.1, first=1002, rss=25 * report.MIB + 1)
    assert best == ["met"] * 11
    assert worst == ["missed"] * 11


def test_what_was_not_measured_is_not_met() -> None:
    assert set(verdicts([row("direct"), row("nginx")]).values()) == {"not measured"}


def test_a_ratio_to_nothing_is_no_ratio() -> None:
    rows = [row("direct", p50=100), row("nginx", p50=99), row("trunkline", p50=101)]
    assert verdicts(rows)["added p50, 1 connection, bodies of 1 KiB", "≤ 1.3 × nginx's added p50"] == "not measured"


def test_the_report_shows_errors_and_what_they_were() -> None:
    text = report.markdown([row("direct"), row("trunkline", errors=2)], about=["a machine"])
    assert "| trunkline | 80 (80–80) |" in text
    assert text.count("status 500: boom") == 1
    assert "None." not in text


def test_a_row_is_written_with_the_fields_others_read() -> None:
    written = json.loads(json.dumps(row("trunkline").as_json()))
    fields = {"case", "connections", "body_bytes", "p50_us", "p99_us", "requests_per_s"}
    assert fields | {"cpu_us_per_request", "peak_rss_bytes", "errors", "round"} <= written.keys()
    assert written["postgres_cpu_us_per_request"] == 7.5


CASES = [Case(name=name, url="", measured=()) for name in ("direct", "nginx", "trunkline")]


def measured_with(direct_p90s: list[float], *, rounds: int, max_repeats: int) -> tuple[list[Row], int, int, list[str]]:
    """Take rounds on a machine whose direct p90 goes as given; the last list is the order of windows."""
    p90s: Iterator[float] = iter(direct_p90s)
    order = []

    def measure(case: Case, kind: Load, number: int) -> Row:
        order.append(case.name)
        return row(case.name, number, connections=kind.connections, p90=next(p90s) if case.name == "direct" else 100)

    result = take(CASES, [Load(1, 1024)], rounds=rounds, max_repeats=max_repeats, measure=measure)
    return result.rows, result.repeated, result.over_gate, order


def test_quiet_rounds_alternate() -> None:
    rows, repeated, over_gate, order = measured_with([100, 110, 90], rounds=3, max_repeats=3)
    assert (repeated, over_gate) == (0, 0)
    assert order == ["direct", "trunkline", "nginx", "direct", "nginx", "trunkline", "direct", "trunkline", "nginx"]
    assert [r.round for r in rows] == [1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_a_noisy_round_is_taken_again() -> None:
    rows, repeated, over_gate, order = measured_with([100, 151, 100], rounds=2, max_repeats=3)
    assert (repeated, over_gate) == (1, 0)
    assert len(order) == 7, "the noisy direct window is not followed by others"
    assert [r.p90_us for r in rows if r.case == "direct"] == [100, 100]


def test_a_round_that_later_proves_noisy_is_taken_again() -> None:
    rows, repeated, over_gate, _ = measured_with([200, 100, 100], rounds=2, max_repeats=3)
    assert (repeated, over_gate) == (1, 0)
    assert [r.p90_us for r in rows if r.case == "direct"] == [100, 100]


def test_repeats_end_and_the_noise_is_told() -> None:
    rows, repeated, over_gate, _ = measured_with([100, 500, 500, 500], rounds=2, max_repeats=2)
    assert (repeated, over_gate) == (2, 1)
    assert len(rows) == 6


def rendered(number: int) -> str:
    fields = "".join(f'{name}: "{value}"\n' for name, value in trunkline_setup.block_values(number).items())
    return f'<memory block="topic_{number}" scope="user">\nWhat is known about topic {number}.\n{fields}</memory>'


def problem(system: str, *, wanted: bool = True) -> str | None:
    request = {"messages": [{"role": "system", "content": system}, {"role": "user", "content": "hi"}]}
    return trunkline_setup.memory_problem(request, wanted=wanted)


def test_ten_blocks_of_four_kilobytes_must_reach_the_upstream() -> None:
    blocks = "\n".join(rendered(number) for number in range(trunkline_setup.BLOCKS))
    memory = f"<trunkline-memory>\n{blocks}\n</trunkline-memory>"
    assert problem(f"You help.\n{memory}") is None
    assert "no memory reached" in str(problem("You help."))
    assert "[9]" in str(problem(memory.replace("parcel-of-block-9", "parcel")))
    assert "not about 4 KB" in str(problem(memory.replace("What is known", "What is known and by whom" * 10)))


def test_no_memory_may_reach_the_upstream_without_an_agent() -> None:
    assert problem("You help.", wanted=False) is None
    assert problem("<trunkline-memory>\n</trunkline-memory>", wanted=False) is not None
