"""Kill anything: sessions with tools go on while every part is killed, frozen and started again at random.

Short here; `make kill-anything` runs it at length (`KILL_SECONDS`, `KILL_SESSIONS`, `KILL_TURNS`, `KILL_SEED`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from support import model_server
from support.control_plane import VAULT_KEY, first_key
from support.havoc import Havoc, Postgres, Process, wait_for
from support.postgres import temporary_home
from trunkline.processes.ports import claim, listener, status_of
from trunkline.store.embedded import ConnectionInfo, EmbeddedPostgres
from trunkline.store.migrate import migrate

SECONDS = float(os.environ.get("KILL_SECONDS", "12"))
SESSIONS = int(os.environ.get("KILL_SESSIONS", "12"))
TURNS = int(os.environ.get("KILL_TURNS", "4"))
SEED = int(os.environ.get("KILL_SEED", "11")) or random.SystemRandom().randrange(1, 10**6)
"""0: another one each time, as `make kill-anything` has it."""
PATIENCE_S = float(os.environ.get("KILL_PATIENCE", "240"))
"""How long after the last kill the sessions may take to their end, on a machine that does other things too."""
SCRIPT = Path(__file__).with_name("kill_anything.yaml")
BOOK = {
    "type": "custom",
    "name": "book",
    "description": "Book the turn.",
    "input_schema": {"type": "object", "properties": {"turn": {"type": "string"}}, "required": ["turn"]},
}
PROGRESS = {"scope": "session", "description": "How far this is.", "fields": {"turn": {"type": "string"}}}
MEMORY = {"blocks": {"progress": PROGRESS}, "on_unavailable": "fail"}
# Who appended what under which claim; each worker's life has a name of its own.
WATCH = """
create table public.appended (session_id uuid, seq bigint, type text, fence bigint, owner text, appender text);
grant insert on public.appended to public;
create function public.note_appended() returns trigger language plpgsql as $$
begin
    insert into public.appended
    select new.session_id, new.seq, new.type, s.lease_fence, s.lease_owner, current_setting('application_name')
      from trunkline.sessions s where s.tenant_id = new.tenant_id and s.id = new.session_id;
    return new;
end $$;
create trigger note_appended after insert on trunkline.events for each row execute function public.note_appended();
"""


@dataclass
class Site:
    """The parts, and how to reach them."""

    info: ConnectionInfo
    key: str
    gateways: list[str]
    model_url: str
    parts: dict[str, list[Process | Postgres]]
    folder: Path

    def rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        with psycopg.connect(self.info.url(), row_factory=dict_row) as connection:
            return connection.execute(query, values).fetchall()

    def logs(self) -> str:
        return "\n".join(f"--- {log.name}\n{log.read_text()[-3000:]}" for log in sorted(self.folder.glob("*.log")))


@contextlib.contextmanager
def site(folder: Path) -> Iterator[Site]:
    """Two gateways, three workers and a control plane, as processes, over a Postgres and a model of their own."""
    with contextlib.ExitStack() as held:
        home = held.enter_context(temporary_home())
        server = EmbeddedPostgres(home)
        held.callback(server.destroy)
        info = server.start()
        migrate(info.url(), embedded=True)
        with psycopg.connect(info.url(), autocommit=True) as connection:
            connection.execute(WATCH)
        key = first_key(info.url())
        model = held.enter_context(model_server.started("--script", str(SCRIPT), "--latency-ms", "150"))
        control_socket = held.enter_context(listener("127.0.0.1:0"))
        control_url = f"http://127.0.0.1:{control_socket.getsockname()[1]}"
        addresses = [claim("127.0.0.1:0") for _ in range(2)]
        urls = [f"http://{address}" for address in addresses]

        def gateway(number: int) -> Process:
            configuration = {
                "listen": addresses[number],
                "control_url": control_url,
                "database": info.url("trunkline_gateway"),
                "spool_dir": str(folder / f"spool-{number}"),
                "spool_max_bytes": 1 << 26,
                "max_body_bytes": 1 << 25,
                "providers": [
                    {"name": "m", "wire": "anthropic_messages", "base_url": f"{model.url}/v1", "api_key": "none"}
                ],
                "models": [{"name": "test", "upstreams": [{"provider": "m", "model": "any"}]}],
                "routes": [],
                "default_model": "test",
                "timeouts": {"connect_ms": 5000, "first_byte_ms": 60000, "idle_ms": 60000, "total_ms": 120000},
            }
            return Process("gateway", folder / f"gateway-{number}.log", lambda _life: configuration)

        def worker(number: int) -> Process:
            def configuration(life: int) -> dict[str, Any]:
                database = make_conninfo(info.url("trunkline_control"), application_name=f"worker-{number}.{life}")
                return {
                    "database": database,
                    "base_url": urls[number % 2],
                    "memory": {},
                    "tools": {},
                    "webhooks": {},
                    "vault_keys": [],
                    "audit_days": 400,
                    "home": str(folder),
                }

            return Process("worker", folder / f"worker-{number}.log", configuration)

        control = Process(
            "control",
            folder / "control.log",
            lambda _life: {
                "database": info.url("trunkline_control"),
                "descriptor": control_socket.fileno(),
                "max_body_bytes": 1 << 25,
                "base_url": urls[0],
                "memory": {},
                "embedder_key": None,
                "reranker_key": None,
                "ca_file": None,
                "tools": {},
                "vault_keys": [VAULT_KEY.hex()],
            },
            descriptors=(control_socket.fileno(),),
        )
        parts: dict[str, list[Process | Postgres]] = {
            "gateway": [gateway(number) for number in range(2)],
            "control": [control],
            "worker": [worker(number) for number in range(3)],
        }
        for group in parts.values():
            for part in group:
                assert isinstance(part, Process)
                part.start()
                held.callback(part.end)
        parts["postgres"] = [Postgres(server)]
        running = Site(info, key, urls, model.url, parts, folder)
        assert wait_for(lambda: all(status_of(url, "/readyz", timeout_s=2) == 200 for url in urls), 60), running.logs()
        assert wait_for(lambda: status_of(urls[0], "/v1/agents", timeout_s=2) == 401, 60), running.logs()
        yield running


@dataclass
class Case:
    """One session's client: says what is to be said, carries out its tool, and notes what it sees."""

    number: int
    http: httpx.AsyncClient
    gateways: list[str]
    session: str = ""
    seen: int = 0
    booked: Counter[str] = field(default_factory=Counter)
    """How often the tool was carried out, by turn."""
    faults: list[str] = field(default_factory=list)

    async def post(self, path: str, body: dict[str, Any], key: str) -> dict[str, Any]:
        """Send until it is answered; the same key makes it happen once."""
        attempt = self.number
        while True:
            attempt += 1
            with contextlib.suppress(httpx.HTTPError):
                answer = await self.http.post(
                    f"{self.gateways[attempt % 2]}{path}", json=body, headers={"idempotency-key": key}
                )
                if answer.status_code == 200:
                    found: dict[str, Any] = answer.json()
                    return found
                assert answer.status_code in (408, 409, 429) or answer.status_code >= 500, answer.text
            await asyncio.sleep(0.3)

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """Yield all events of the session, from whichever gateway streams them."""
        attempt = self.number
        while True:
            attempt += 1
            url = f"{self.gateways[attempt % 2]}/v1/sessions/{self.session}/events/stream"
            with contextlib.suppress(httpx.HTTPError):
                async with self.http.stream("GET", url, params={"after": str(self.seen)}) as stream:
                    async for line in stream.aiter_lines():
                        if stream.status_code == 200 and line.startswith("data: "):
                            event = json.loads(line.removeprefix("data: "))
                            if "seq" not in event:
                                break  # an error: the database is away
                            if event["seq"] != self.seen + 1:
                                self.faults.append(f"event {event['seq']} came after {self.seen}")
                            self.seen = event["seq"]
                            yield event
            await asyncio.sleep(0.3)

    async def run(self, agent: str, pace_s: float) -> None:
        made = await self.post("/v1/sessions", {"agent": agent, "environment_id": "default"}, f"make-{self.number}")
        self.session = made["id"]
        events = self.events()
        for turn in range(1, TURNS + 1):
            began = time.monotonic()
            words = f"case-{self.number} turn-{turn}"
            message = {"type": "user.message", "content": [{"type": "text", "text": words}]}
            await self._send(message, f"say-{self.session}-{turn}")
            async for event in events:
                if event["type"] == "agent.custom_tool_use":
                    self.booked[event["input"]["turn"]] += 1
                    said = {"type": "text", "text": f"booked {event['input']['turn']}"}
                    use = event["id"]
                    result = {"type": "user.custom_tool_result", "custom_tool_use_id": use, "content": [said]}
                    await self._send(result, f"book-{use}")
                elif event["type"] == "session.status_idle":
                    reason = event["stop_reason"]["type"]
                    if reason == "end_turn":
                        break
                    if reason != "requires_action":
                        self.faults.append(f"turn {turn} ended with {reason}")
                        break
            await asyncio.sleep(max(0.0, pace_s - (time.monotonic() - began)))

    async def _send(self, event: dict[str, Any], key: str) -> None:
        await self.post(f"/v1/sessions/{self.session}/events", {"events": [event]}, key)


async def converse(place: Site, havoc: Havoc) -> list[Case]:
    """Play all sessions to their end while havoc is wrought for `SECONDS`."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    headers = {"x-api-key": place.key}
    async with httpx.AsyncClient(headers=headers, timeout=httpx.Timeout(5, read=20), limits=limits) as http:
        cases = [Case(number, http, place.gateways) for number in range(SESSIONS)]
        definition = {"name": "booker", "model": "test", "tools": [BOOK], "memory": MEMORY}
        agent = (await cases[0].post("/v1/agents", definition, "agent"))["id"]
        playing = [asyncio.create_task(case.run(agent, SECONDS / TURNS)) for case in cases]
        began = time.monotonic()
        havoc.start()
        try:
            await asyncio.wait(playing, timeout=SECONDS)
        finally:
            await asyncio.to_thread(havoc.stop)
        raged = time.monotonic() - began
        _, left = await asyncio.wait(playing, timeout=PATIENCE_S)
        for task in left:
            task.cancel()
        await asyncio.gather(*playing, return_exceptions=True)
        for case, task in zip(cases, playing, strict=True):
            if task in left:
                case.faults.append(f"not finished: {case.seen} events seen, booked {sorted(case.booked)}")
            elif not task.cancelled() and task.exception() is not None:
                case.faults.append(f"failed: {task.exception()!r}")
    after = time.monotonic() - began - raged
    tell(f"{SESSIONS} sessions ended {after:.1f} s after {havoc.done.total()} deeds")
    return cases


def tell(line: str) -> None:
    """Show a line to who runs this with `-s`."""
    sys.stdout.write(f"{line}\n")


@pytest.mark.timeout(SECONDS + PATIENCE_S + 180)
def test_whatever_is_killed_every_session_finishes_and_nothing_happens_twice(tmp_path: Path) -> None:
    tell(f"KILL_SEED={SEED}")
    with site(tmp_path) as place:
        havoc = Havoc(SEED, place.parts)
        cases = asyncio.run(converse(place, havoc))
        tell(str(dict(sorted(havoc.done.items()))))
        # The gateways' spools are delivered when they have nothing more to say.
        wait_for(lambda: unspent(place) == [], 30)
        faults = [f"case {case.number}: {fault}" for case in cases for fault in case.faults]
        for case in cases:
            faults += [f"case {case.number}: {fault}" for fault in log_faults(place, case)]
        faults += appender_faults(place) + unspent(place) + spend_faults(place, havoc)
        assert not faults, "\n".join([f"KILL_SEED={SEED}", *faults[:40], place.logs()])


def log_faults(place: Site, case: Case) -> list[str]:
    """What of a session's log is not as it was played."""
    session = case.session.removeprefix("sesn_")
    log = place.rows(
        "select seq, type, payload, processed_at from trunkline.events where session_id = %s order by seq", session
    )
    faults = []
    turns = [f"turn-{turn}" for turn in range(1, TURNS + 1)]
    if [event["seq"] for event in log] != list(range(1, len(log) + 1)):
        faults.append("its numbers have gaps")
    said = [_text(event) for event in log if event["type"] == "user.message"]
    if said != [f"case-{case.number} {turn}" for turn in turns]:
        faults.append(f"it was told {said}")
    called = [event["payload"]["input"]["turn"] for event in log if event["type"] == "agent.custom_tool_use"]
    if called != turns or case.booked != Counter(turns):
        faults.append(f"it called {called}, and booked {dict(case.booked)}")
    answered = [_text(event) for event in log if event["type"] == "agent.message"]
    if [text for text in answered if text] != [f"finished {turn}" for turn in turns]:
        faults.append(f"it answered {answered}")
    written = place.rows(
        "select v.value ->> 'turn' as turn from trunkline.memory_versions v where v.session_id = %s order by v.version",
        session,
    )
    # While the control plane is away the model is told that nothing was written, and goes on.
    wrote = [version["turn"] for version in written]
    if wrote != [turn for turn in turns if turn in wrote]:
        faults.append(f"it wrote {wrote} to memory")
    if any(event["processed_at"] is None for event in log):
        faults.append("some of it was never processed")
    return faults


def _text(event: dict[str, Any]) -> str:
    return "".join(block["text"] for block in event["payload"]["content"] if block["type"] == "text")


def appender_faults(place: Site) -> list[str]:
    """Where two workers appended to one session at a time."""
    rows = place.rows(
        "select session_id, seq, type, fence, owner, appender from public.appended"
        " where appender like 'worker-%%' order by session_id, seq"
    )
    faults = []
    last: dict[Any, int] = defaultdict(int)
    whose: dict[Any, tuple[str, str]] = {}
    for row in rows:
        session, fence = row["session_id"], row["fence"]
        if fence < last[session]:
            faults.append(f"session {session}: event {row['seq']} under fence {fence} after {last[session]}")
        last[session] = fence
        one = (row["owner"], row["appender"])
        if whose.setdefault((session, fence), one) != one:
            faults.append(f"session {session}: fence {fence} was that of {whose[session, fence]} and of {one}")
    return faults if rows else ["nobody appended anything"]


def unspent(place: Site) -> list[str]:
    """Sessions whose log says they used other tokens than was recorded as bought for them."""
    rows = place.rows(
        """
        with logged as (
            select session_id, count(*) as calls, sum((payload #>> '{model_usage,input_tokens}')::bigint) as input,
                   sum((payload #>> '{model_usage,output_tokens}')::bigint) as output
              from trunkline.events where type = 'span.model_request_end' and not (payload ->> 'is_error')::boolean
             group by 1
        ), bought as (
            select session_id, count(*) as calls, sum(input_tokens - cached_tokens - cache_write_tokens) as input,
                   sum(output_tokens) as output
              from trunkline.usage where status = 200 and source <> 'replay' group by 1
        )
        select session_id, logged.calls as steps, bought.calls, logged.input as said, bought.input,
               logged.output as said_out, bought.output
          from logged full join bought using (session_id)
         where (logged.calls, logged.input, logged.output) is distinct from (bought.calls, bought.input, bought.output)
        """
    )
    return [f"the log and what was bought differ: {row}" for row in rows]


def spend_faults(place: Site, havoc: Havoc) -> list[str]:
    """Where the model server counts other than the gateways; what a killed one had under way may be missing."""
    [bought] = place.rows(
        "select coalesce(sum(rounds), 0)::bigint as requests, coalesce(sum(input_tokens), 0)::bigint as input,"
        " coalesce(sum(output_tokens), 0)::bigint as output from trunkline.usage where source <> 'replay'"
    )
    asked = httpx.get(f"{place.model_url}/_stats", timeout=20).json()
    missing = asked["requests"] - asked["errors"] - bought["requests"]
    killed = havoc.done["gateway killed"]
    tell(f"the model server was asked {asked['requests']} times; {missing} of them are not recorded, of {killed} kills")
    if missing < 0 or missing > killed * SESSIONS:
        return [f"{missing} requests are missing of {asked}, after {killed} kills of gateways: {bought}"]
    if not missing and (asked["input_tokens"], asked["output_tokens"]) != (bought["input"], bought["output"]):
        return [f"the model server counts {asked}, the gateways {bought}"]
    return []
