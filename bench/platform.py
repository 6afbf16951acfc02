"""Agents that run: how soon a message, an event and a lost session are taken up, and how much one process carries.

`trunkline up` in a throw-away home, one more `trunkline worker`, and a model in this process, which is the client too;
all of it shares the machine. Calls go through the gateway, as clients' do. Times are from the first byte sent.

`make bench-platform` writes `results/platform.json` and `results/platform.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psycopg
import uvloop

from bench import load, machine
from bench.model import HOLD, Model, serving
from bench.processes import PeakMemory, cpu_seconds
from bench.report import MIB, Bar
from bench.trunkline_setup import Running, trunkline
from trunkline.store.embedded import EmbeddedPostgres

BENCH = Path(__file__).resolve().parent
TOOLS = f"""
import asyncio
from trunkline import tool

@tool(timeout_seconds=600)
async def {HOLD}() -> str:
    \"\"\"Last until the worker dies.\"\"\"
    await asyncio.sleep(600)
    return "held"
"""
MEMORY = {
    "blocks": {
        "progress": {"scope": "session", "description": "How far this is.", "fields": {"turn": {"type": "string"}}}
    }
}
HOLDING = {"type": "custom", "name": HOLD, "description": "Wait.", "input_schema": {"type": "object", "properties": {}}}


WATCH = """
create table public.claims (session_id uuid, at float8);
grant insert on public.claims to public;
create function public.note_claim() returns trigger language plpgsql as $$
begin
    insert into public.claims values (new.id, extract(epoch from clock_timestamp()));
    return new;
end $$;
create trigger note_claim after update of lease_fence on trunkline.sessions for each row
    when (new.lease_fence <> old.lease_fence) execute function public.note_claim();
"""

LIVING = """
select count(*) from trunkline.workers where name not in (select name from trunkline.gone_workers() as name)
"""


@dataclass(frozen=True)
class Site:
    """What is measured: the running parts, the model, and a client of the API."""

    up: Running
    model: Model
    http: httpx.AsyncClient
    agent: str

    async def session(self) -> str:
        """Begin a session and return its id."""
        body = {"agent": self.agent, "environment_id": "default"}
        return str((await self.post("/v1/sessions", body))["id"])

    async def say(self, session: str, words: str) -> None:
        """Send a user's message."""
        message = {"type": "user.message", "content": [{"type": "text", "text": words}]}
        await self.post(f"/v1/sessions/{session}/events", {"events": [message]})

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """POST JSON and return the answer's. Raises RuntimeError for any other answer than 200."""
        answer = await self.http.post(path, json=body)
        if answer.status_code != 200:
            raise RuntimeError(f"{path} answered {answer.status_code}: {answer.text[:300]}")
        found: dict[str, Any] = answer.json()
        return found

    async def stream(self, session: str) -> AsyncIterator[dict[str, Any]]:
        """Open a session's stream; what comes from now on can be iterated over."""
        host, _, port = self.up.base_url.removeprefix("http://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 20)
        path = f"/v1/sessions/{session}/events/stream"
        writer.write(f"GET {path} HTTP/1.1\r\nhost: {host}\r\nx-api-key: {self.up.admin_key}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in head:
            raise RuntimeError(f"{path} answered {head.decode()}")
        return self._events(reader, writer)

    @staticmethod
    async def _events(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> AsyncIterator[dict[str, Any]]:
        try:
            while line := await reader.readline():
                if line.startswith(b"data: "):
                    yield json.loads(line[6:])
        finally:
            writer.close()

    async def until_idle(self, sessions: Sequence[str]) -> None:
        """Wait until nothing is under way in any of these sessions."""
        for session in sessions:
            for _ in range(1000):
                if (await self.http.get(f"/v1/sessions/{session}")).json()["status"] == "idle":
                    break
                await asyncio.sleep(0.03)

    def watch(self) -> None:
        """Have the database note each claim of a session."""
        with self._database() as connection:
            connection.execute(WATCH.encode())

    async def workers(self, count: int) -> None:
        """Wait until so many workers are known to live. Raises RuntimeError when they do not within a minute."""
        for _ in range(600):
            [living] = await asyncio.to_thread(self.row, LIVING)
            if living == count:
                return
            await asyncio.sleep(0.1)
        raise RuntimeError(f"there were no {count} workers within a minute")

    def _database(self) -> psycopg.Connection[tuple[Any, ...]]:
        info = EmbeddedPostgres(self.up.home).running()
        assert info is not None
        return psycopg.connect(info.url())

    def row(self, query: str, *values: Any) -> tuple[Any, ...]:
        """Return one row of the database."""
        with self._database() as connection:
            found = connection.execute(query.encode(), values).fetchone()
        assert found is not None
        return found


async def arrival(model: Model, word: str, count: int = 1) -> float:
    """Return when the model was asked about `word` for the `count`th time, by `time.time()`."""
    end = time.monotonic() + 60
    while len(model.arrived.get(word, ())) < count:
        if time.monotonic() > end:
            raise RuntimeError(f"the model was not asked about {word} within a minute")
        await asyncio.sleep(0.0005)
    return model.arrived[word][count - 1]


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Return percentiles in ms."""
    ordered = sorted(seconds)
    figures = {
        "p50_ms": statistics.median(ordered),
        "p99_ms": ordered[int(0.99 * len(ordered))],
        "most_ms": ordered[-1],
    }
    return {"samples": len(ordered), **{name: round(1000 * figure, 1) for name, figure in figures.items()}}


async def first_ask(site: Site, count: int) -> dict[str, float]:
    """From a user's message to the model call's arrival, one at a time, the worker idle."""
    took = []
    for number in range(count):
        session = await site.session()
        await asyncio.sleep(0.02)
        word = f"first-{number}"
        began = time.time()
        await site.say(session, f"Say something {word}")
        took.append(await arrival(site.model, word) - began)
        await site.until_idle([session])
    return spread(took[count // 10 :])


async def seen_on_streams(site: Site, streams: int, appends: int, pace_s: float) -> dict[str, float]:
    """From sending a message to seeing it on one of many open streams; the agent answers each."""
    sessions = [await site.session() for _ in range(streams)]
    began: dict[str, float] = {}
    took: list[float] = []

    async def watch(events: AsyncIterator[dict[str, Any]]) -> None:
        async for event in events:
            if event["type"] == "user.message":
                word = event["content"][0]["text"]
                took.append(time.perf_counter() - began[word])

    watching = [asyncio.create_task(watch(await site.stream(session))) for session in sessions]
    await asyncio.sleep(3)
    saying = []
    for number in range(appends):
        word = f"seen-{number}"

        async def say(word: str = word) -> None:
            session = random.choice(sessions)
            began[word] = time.perf_counter()
            await site.say(session, word)

        saying.append(asyncio.create_task(say()))
        await asyncio.sleep(pace_s)
    await asyncio.gather(*saying)
    for _ in range(200):
        if len(took) == appends:
            break
        await asyncio.sleep(0.1)
    for task in watching:
        task.cancel()
    ended = await asyncio.gather(*watching, return_exceptions=True)
    failed = [one for one in ended if isinstance(one, Exception)]
    if failed or len(took) < appends:
        raise RuntimeError(f"{appends - len(took)} events were not seen; {len(failed)} streams failed: {failed[:1]}")
    return {"streams": streams, **spread(took)}


async def in_flight(site: Site, sessions: int, turns: int) -> dict[str, float]:
    """Sessions that wait for a model that answers in a second, and the memory and processor time of their worker.

    The worker is stopped while the first messages are sent, since sending them takes the same cores; so it finds all of
    them when it goes on. The later turns are begun by messages as the answers come.
    """
    ids = [await site.session() for _ in range(sessions)]
    model, pid = site.model, site.up.processes["worker"]
    model.delay_s, model.most_in_flight, before = 1.0, 0, model.answered
    used = cpu_seconds([pid])

    async def talk(session: str, events: AsyncIterator[dict[str, Any]]) -> None:
        async for event in events:
            if event["type"] == "session.status_idle":
                talked[session] += 1
                if talked[session] == turns:
                    return
                await site.say(session, f"And then {session}")

    talked = dict.fromkeys(ids, 0)
    with PeakMemory([pid]) as memory:
        talking = [asyncio.create_task(talk(session, await site.stream(session))) for session in ids]
        os.kill(pid, signal.SIGSTOP)
        try:
            for session in ids:
                await site.say(session, f"Begin {session}")
        finally:
            os.kill(pid, signal.SIGCONT)
        began = time.perf_counter()
        await asyncio.gather(*talking)
        took = time.perf_counter() - began
    model.delay_s = 0.0
    calls = model.answered - before
    return {
        "sessions": sessions,
        "most_in_flight": model.most_in_flight,
        "peak_rss_mib": round(memory.bytes / MIB, 1),
        "turns_per_s": round(calls / took, 1),
        "worker_cpu_ms_per_turn": round(1000 * (cpu_seconds([pid]) - used) / calls, 2),
    }


async def long_sessions(site: Site, sessions: int, events: int) -> list[str]:
    """Make sessions with logs of so many events, by talking."""
    ids = [await site.session() for _ in range(sessions)]

    async def talk(session: str) -> None:
        stream = await site.stream(session)
        await site.say(session, f"Begin {session}")
        async for event in stream:
            if event["type"] == "session.status_idle":
                if event["seq"] >= events:
                    return
                await site.say(session, f"And then {session}")

    await asyncio.gather(*(talk(session) for session in ids))
    return ids


class SecondWorker:
    """A `trunkline worker` beside the one of `trunkline up`, and another one whenever it was killed."""

    def __init__(self, site: Site, binary: Path, log: Path) -> None:
        self._home, self._command, self._log = site.up.home, [str(binary), "worker"], log
        self._process: subprocess.Popen[bytes] | None = None

    def ensure(self) -> None:
        """See to it that it runs."""
        if self._process is None or self._process.poll() is not None:
            environment = {**os.environ, "TRUNKLINE_HOME": str(self._home)}
            environment.pop("DATABASE_URL", None)
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    self._command, cwd=self._home, env=environment, stdout=log, stderr=subprocess.STDOUT
                )

    def end(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)


async def taken_over(site: Site, second: SecondWorker, sessions: Sequence[str], *, freeze: bool) -> dict[str, Any]:
    """Kill or freeze the worker of one long session after another while a tool of theirs is carried out.

    Returns the spread from the kill to the other worker's model call, and from its claim to that call.
    """
    over, rebuilt = [], []
    for number, session in enumerate(sessions):
        second.ensure()
        await site.workers(2)  # `trunkline up` too starts another one, if it was its own
        await asyncio.sleep(1)
        word = f"{'freeze' if freeze else 'kill'}-{number}"
        before = len(site.model.arrived.get(HOLD, ()))
        await site.say(session, f"{HOLD} {word}")
        await arrival(site.model, word)
        await asyncio.sleep(0.3)  # the tool is under way
        [owner] = await asyncio.to_thread(
            site.row, "select lease_owner from trunkline.sessions where id = %s::uuid", session.removeprefix("sesn_")
        )
        pid = int(owner.split(":")[1])
        os.kill(pid, signal.SIGSTOP if freeze else signal.SIGKILL)
        killed = time.time()
        try:
            asked = await arrival(site.model, HOLD, before + 1)
        finally:
            if freeze:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        over.append(asked - killed)
        [claimed] = await asyncio.to_thread(
            site.row, "select max(at) from public.claims where session_id = %s::uuid", session.removeprefix("sesn_")
        )
        rebuilt.append(asked - claimed)
        await site.until_idle([session])
    return {"from_loss": spread(over), "from_claim": spread(rebuilt)}


def reads(site: Site, programs: load.Programs, session: str, path: str, expect: str) -> dict[str, float]:
    """Read from 20 clients at once, the load client and all parts on the same cores."""
    url = f"{site.up.base_url}/v1/sessions/{session}{path}"
    headers = [f"x-api-key: {site.up.admin_key}"]
    found = load.run(programs, url, headers=headers, connections=20, body_bytes=0, seconds=5, warmup=1, expect=expect)
    if found.errors:
        raise RuntimeError(f"{found.errors} reads failed: {found.first_error}")
    return {
        "requests_per_s": found.requests_per_s,
        "p50_ms": round(found.p50_us / 1000, 1),
        "p99_ms": round(found.p99_us / 1000, 1),
    }


@asynccontextmanager
async def site(binary: Path, folder: Path) -> AsyncIterator[Site]:
    """Run everything, and make an agent with memory and a tool."""
    async with serving() as model:
        settings = {
            "providers": {"bench": {"wire": "anthropic_messages", "base_url": f"{model.url}/v1", "api_key": "none"}},
            "models": {"bench": {"provider": "bench", "model": "bench-upstream"}},
            "tools": {"modules": ["held"]},
        }
        folder.joinpath("trunkline").mkdir()
        folder.joinpath("trunkline", "held.py").write_text(TOOLS)
        starting = trunkline(binary, settings, folder)
        up = await asyncio.to_thread(starting.__enter__)
        try:
            headers = {"x-api-key": up.admin_key}
            limits = httpx.Limits(max_connections=100)
            async with httpx.AsyncClient(base_url=up.base_url, headers=headers, timeout=60, limits=limits) as http:
                made = await http.post(
                    "/v1/agents", json={"name": "bench", "model": "bench", "tools": [HOLDING], "memory": MEMORY}
                )
                made.raise_for_status()
                place = Site(up, model, http, made.json()["id"])
                await asyncio.to_thread(place.watch)
                yield place
        finally:
            await asyncio.to_thread(starting.__exit__, None, None, None)


async def measure(binary: Path, programs: load.Programs, folder: Path, part: float) -> dict[str, Any]:
    """Return all figures; `part` of the full counts."""
    results: dict[str, Any] = {}

    async def take(name: str, measured: Awaitable[dict[str, Any]]) -> None:
        results[name] = await measured
        print(f"{name}: {json.dumps(results[name])}", flush=True)

    def count(whole: int) -> int:
        return max(3, int(whole * part))

    async with site(binary, folder) as place:
        await take("message_to_model", first_ask(place, count(200)))
        await take("in_flight", in_flight(place, count(400), 5))
        [session] = await long_sessions(place, 1, 40)
        await take("get_session", asyncio.to_thread(reads, place, programs, session, "", session))
        page = "/events?limit=20"
        await take("list_events", asyncio.to_thread(reads, place, programs, session, page, '"next_page"'))
        await take("seen_on_streams", seen_on_streams(place, count(1000), count(400), 0.05))
        sessions = await long_sessions(place, count(20), 1000)
        second = SecondWorker(place, binary, folder / "worker.log")
        try:
            await take("killed", taken_over(place, second, sessions, freeze=False))
            await take("frozen", taken_over(place, second, sessions[: count(5)], freeze=True))
        finally:
            second.end()
    return results


def bars(found: dict[str, Any]) -> list[Bar]:
    """Set the figures beside the bars."""
    killed, frozen, flight = found["killed"], found["frozen"], found["in_flight"]
    seen, ask = found["seen_on_streams"], found["message_to_model"]["p50_ms"]
    rebuilt = killed["from_claim"]["p50_ms"]
    made = [
        Bar(
            "session of 1,000 events after its worker's death, from claim to model call",
            "p50 ≤ 20 ms",
            f"{rebuilt} ms",
            rebuilt <= 20,
        ),
        Bar(
            "takeover after kill -9 of its worker, to the next model call",
            "≤ 2 s",
            f"{killed['from_loss']['most_ms'] / 1000:.2f} s at most",
            killed["from_loss"]["most_ms"] <= 2000,
        ),
        Bar(
            "takeover after its worker's freeze, to the next model call",
            "≤ 10 s",
            f"{frozen['from_loss']['most_ms'] / 1000:.2f} s at most",
            frozen["from_loss"]["most_ms"] <= 10_000,
        ),
        Bar(
            f"event sent → seen on a stream, {seen['streams']:,} streams open",
            "p50 ≤ 10 ms, p99 ≤ 50 ms",
            f"{seen['p50_ms']} / {seen['p99_ms']} ms",
            seen["p50_ms"] <= 10 and seen["p99_ms"] <= 50,
        ),
        Bar("user message → model asked, idle worker", "p50 ≤ 30 ms", f"{ask} ms", ask <= 30),
        Bar(
            "one worker, model answers in 1 s",
            "≥ 300 sessions in flight, ≤ 250 MiB",
            f"{flight['most_in_flight']}, {flight['peak_rss_mib']} MiB",
            flight["most_in_flight"] >= 300 and flight["peak_rss_mib"] <= 250,
        ),
    ]
    for name, what in (("get_session", "reads of a session"), ("list_events", "reads of 20 events")):
        rate, p99 = found[name]["requests_per_s"], found[name]["p99_ms"]
        made.append(
            Bar(f"{what}, 20 clients", "≥ 800/s, p99 ≤ 25 ms", f"{rate:,.0f}/s, {p99} ms", rate >= 800 and p99 <= 25)
        )
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trunkline", type=Path, default=Path(sys.executable).with_name("trunkline"))
    parser.add_argument("--quick", action="store_true", help="a tenth of it, written nowhere: does all of it work?")
    options = parser.parse_args()
    programs = load.build()
    busy = os.getloadavg()[0]
    here = machine.describe()
    with tempfile.TemporaryDirectory(prefix="trunkline-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            found = runner.run(measure(options.trunkline, programs, folder, 0.1 if options.quick else 1.0))
    about = f"{datetime.now(UTC).date().isoformat()}; {machine.sentence(here)}; load average {busy:.1f} before the run"
    lines = [about, "", "| what | bar | measured | |", "|---|---|---|---|"]
    lines += [f"| {bar.what} | {bar.target} | {bar.measured} | {bar.verdict} |" for bar in bars(found)]
    text = "\n".join(lines) + "\n"
    print("\n" + text)
    if not options.quick:
        content = {"machine": here, "load_average_before": busy, "bars": [asdict(bar) for bar in bars(found)], **found}
        (BENCH / "results" / "platform.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        (BENCH / "results" / "platform.md").write_text(text)


if __name__ == "__main__":
    main()
