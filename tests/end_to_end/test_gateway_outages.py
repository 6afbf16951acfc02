"""Postgres away, the gateway killed or stopped: no call fails for it, and what was answered is in the books."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import openai
import psycopg
import pytest

from support.memory import CUSTOMER, ok, write
from support.postgres import DatabaseUrls, temporary_home
from support.stack import Part, Stack, eventually, serving, wait_ready
from trunkline.store.embedded import EmbeddedPostgres
from trunkline.store.migrate import migrate
from trunkline.store.postmaster import read_postmaster, servers_of

CHAT = "/v1/chat/completions"


@dataclass(frozen=True)
class World:
    """A stack over a Postgres of its own, which can be stopped."""

    stack: Stack
    postgres: EmbeddedPostgres
    spool: Path


@pytest.fixture(scope="module")
def world(scripted_model: str) -> Iterator[World]:
    with temporary_home() as home:
        server = EmbeddedPostgres(home)
        try:
            info = server.start()
            migrate(info.url(), embedded=True)
            name = info.url().rsplit("/", 1)[-1]
            urls = DatabaseUrls(name, info.url(), info.url("trunkline_control"), info.url("trunkline_gateway"))
            with serving(urls, scripted_model, home) as stack:
                yield World(stack, server, home / "spool")
        finally:
            server.destroy()


def make_agent(stack: Stack, **memory: Any) -> str:
    name = f"steady-{uuid4().hex[:8]}"
    with stack.http() as http:
        given = {"name": name, "model": "gpt", "memory": {"blocks": {"customer": CUSTOMER}, **memory}}
        ok(http.post("/v1/agents", json=given))
    return name


@dataclass
class Load:
    """Clients that call one after the other, until told to stop, and write down what they were told."""

    stack: Stack
    key: str
    model: str = "gpt"
    answered: list[str] = field(default_factory=list)
    """Ids of the calls whose answers came whole."""
    broken: list[str] = field(default_factory=list)
    """Answers that began and did not end well, or that were errors."""
    untaken: int = 0
    """Calls that were not answered at all."""
    stopping: threading.Event = field(default_factory=threading.Event)

    def client(self, number: int) -> None:
        count = 0
        while not self.stopping.is_set():
            count += 1
            self.call(f"say {number} {count}", streams=(number + count) % 2 == 0)

    def call(self, text: str, *, streams: bool) -> None:
        body = {
            "model": self.model,
            "stream": streams,
            "messages": [{"role": "user", "content": text}],
            "user": text[:6],
        }
        begun = False
        try:
            with (
                self.stack.http(self.key) as http,
                http.stream("POST", CHAT, json=body, headers={"connection": "close"}) as answer,
            ):
                begun = True
                answer.read()
        except httpx.TransportError as error:
            if begun:
                self.broken.append(repr(error))
            else:
                self.untaken += 1
                time.sleep(0.02)
            return
        whole = answer.text.endswith("data: [DONE]\n\n") if streams else text.removeprefix("say ") in answer.text
        if answer.status_code == 200 and whole:
            self.answered.append(answer.headers["x-trunkline-call"])
        else:
            self.broken.append(f"{answer.status_code} {answer.text[-300:]}")

    def more(self, count: int) -> bool:
        """Wait until so many more calls were answered."""
        enough = len(self.answered) + count
        return eventually(lambda: len(self.answered) >= enough or self.broken)

    def __enter__(self) -> Load:
        self.pool = ThreadPoolExecutor(6)
        self.clients = [self.pool.submit(self.client, number) for number in range(6)]
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self.pool.shutdown()
        for client in self.clients:
            client.result()


def recorded(stack: Stack, key_id: str) -> Counter[str]:
    """How often each answered call is in the books."""
    rows = stack.rows("select id from trunkline.usage where status = 200 and key_id = %s", key_id.removeprefix("key_"))
    return Counter(f"call_{row['id'].hex}" for row in rows)


OUTAGE_SECONDS = float(os.environ.get("TRUNKLINE_TEST_OUTAGE_SECONDS", "2"))
"""How long Postgres is away under load; a minute shows what a restart on another host would."""


def _stop(postgres: EmbeddedPostgres) -> None:
    postgres.stop()


def _kill(postgres: EmbeddedPostgres) -> None:
    postmaster = read_postmaster(postgres.data)
    assert postmaster is not None
    os.kill(postmaster.pid, signal.SIGKILL)


def _freeze(postgres: EmbeddedPostgres) -> None:
    for process in servers_of(postgres.data):
        process.suspend()


def _start(postgres: EmbeddedPostgres) -> None:
    postgres.start()


def _thaw(postgres: EmbeddedPostgres) -> None:
    for process in servers_of(postgres.data):
        process.resume()


OUTAGES = {"stopped": (_stop, _start), "killed": (_kill, _start), "frozen": (_freeze, _thaw)}


def totals(stack: Stack) -> Counter[str]:
    """What the model server counted: requests and tokens."""
    told = httpx.get(f"{stack.model_url}/_stats", timeout=20).json()
    return Counter({name: told[name] for name in ("requests", "input_tokens", "output_tokens")})


def summed(stack: Stack, *keys: str) -> Counter[str]:
    """The same by the books."""
    used = [stack.usage(key_id=key) for key in keys]
    return Counter({name: sum(one[name] for one in used) for name in ("requests", "input_tokens", "output_tokens")})


@pytest.mark.timeout(120 + 4 * OUTAGE_SECONDS)
@pytest.mark.parametrize("outage", list(OUTAGES))
def test_postgres_away_for_a_while_under_load(world: World, outage: str) -> None:
    stack = world.stack
    begin, end = OUTAGES[outage]
    key, key_id = stack.inference_key()
    agent = make_agent(stack)
    before = totals(stack)
    # A server that is frozen lets readers of memory wait, which is what they ask for; plain calls must not notice.
    loads = [Load(stack, key)] if outage == "frozen" else [Load(stack, key), Load(stack, key, f"agent/{agent}")]
    with contextlib.ExitStack() as clients:
        for load in loads:
            clients.enter_context(load)
            assert load.more(20)
        begin(world.postgres)
        gone = time.monotonic()
        try:
            for load in loads:
                assert load.more(60)
            while time.monotonic() < gone + OUTAGE_SECONDS:
                assert all(load.more(1) for load in loads)
            assert httpx.get(f"{stack.base_url}/readyz").status_code == 200
        finally:
            end(world.postgres)
        for load in loads:
            assert load.more(20)
    assert [load.broken for load in loads] == [[]] * len(loads)
    assert [load.untaken for load in loads] == [0] * len(loads)
    answered = Counter(call for load in loads for call in load.answered)
    assert eventually(lambda: recorded(stack, key_id) == answered), "the books differ from what was answered"
    # The provider's own count is the measure: calls and tokens, to the last one.
    assert eventually(lambda: summed(stack, key_id) == totals(stack) - before)
    assert summed(stack, key_id)["requests"] == len(answered)
    if len(loads) == 2:
        # Each conversation's turn is in the log, once.
        turns = stack.rows(
            "select count(*) from trunkline.events e join trunkline.sessions s on s.id = e.session_id "
            "join trunkline.agents a on a.id = s.agent_id where a.name = %s and e.type = 'agent.message'",
            agent,
        )
        assert turns[0]["count"] == len(loads[1].answered)
    assert not (world.spool / "rejected.jsonl").exists()


def metric(stack: Stack, name: str) -> float:
    """Return what a metric without labels says."""
    lines = httpx.get(f"{stack.base_url}/metrics", timeout=20).text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


@pytest.mark.parametrize("outage", ["killed", "frozen"])
def test_limits_while_postgres_is_away(world: World, outage: str) -> None:
    stack = world.stack
    begin, end = OUTAGES[outage]
    limited, limited_id = stack.inference_key(budget_usd=5)
    free, free_id = stack.inference_key()
    answered: Counter[str] = Counter()

    def call(key: str, key_id: str) -> httpx.Response:
        given = {"model": "gpt", "max_tokens": 11, "messages": [{"role": "user", "content": "count the tokens"}]}
        with stack.http(key) as http:
            answer = http.post(CHAT, json=given)
        answered[key_id] += answer.status_code == 200
        return answer

    assert [call(limited, limited_id).status_code for _ in range(3)] == [200] * 3
    assert eventually(lambda: recorded(stack, limited_id).total() == 3), "what was lent is renewed with what was spent"
    begin(world.postgres)
    try:
        # It goes on within what is lent, which is a part of the budget, and is then told whose fault it is.
        assert call(limited, limited_id).status_code == 200
        refused = next(answer for _ in range(500) if (answer := call(limited, limited_id)).status_code != 200)
        assert refused.status_code == 503, refused.text
        assert refused.json()["error"]["code"] == "limits_unavailable"
        assert metric(stack, "trunkline_lease_failures_total") > 0, "the operator sees why"
        assert [call(free, free_id).status_code for _ in range(3)] == [200] * 3, "a key without limits notices nothing"
        assert call(limited, limited_id).status_code == 503
    finally:
        end(world.postgres)
    assert eventually(lambda: call(limited, limited_id).status_code == 200), "it goes on when Postgres is back"
    keys = (limited_id, free_id)
    assert eventually(lambda: all(recorded(stack, key_id).total() == answered[key_id] for key_id in keys))
    assert all(set(recorded(stack, key_id).values()) == {1} for key_id in keys), "each call is in the books once"
    with stack.http() as http:
        spent = ok(http.get(f"/v1/keys/{limited_id}"))
    cost = answered[limited_id] * (2000 * 10 + 11 * 1000) / 1e6
    assert (spent["requests"], spent["spent_usd"]) == (answered[limited_id], pytest.approx(cost))
    assert cost <= 5


@contextlib.contextmanager
def another_gateway(world: World, limits: str = "") -> Iterator[tuple[Stack, Path]]:
    """A further gateway over the same database, with a spool of its own; `limits` are added to its configuration's."""
    stack = world.stack
    with temporary_home() as home:
        configuration = home / "trunkline.yaml"
        text = (world.spool.parent / "trunkline.yaml").read_text(encoding="utf-8")
        configuration.write_text(text.replace("limits: {", f"limits: {{{limits}"), encoding="utf-8")
        arguments = ["gateway", "--listen", "127.0.0.1:0", "--control-url", stack.control_url]
        arguments += ["--config", str(configuration), "--json"]
        environment = stack.gateway.environment | {"TRUNKLINE_HOME": str(home)}
        part = Part(arguments, environment, home / "gateway.log")
        try:
            base_url = part.start()
            wait_ready(base_url)
            yield replace(stack, base_url=base_url, gateway=part), home / "spool"
        finally:
            part.end()


def test_a_gateway_that_gets_no_more_connections_goes_on_with_those_it_has(world: World) -> None:
    key, _ = world.stack.inference_key()
    body = {"model": "gpt", "messages": [{"role": "user", "content": "hello"}]}

    def call(stack: Stack, number: int) -> int:
        with stack.http(key) as http:
            return http.post(CHAT, json=body, headers={"idempotency-key": f"few-{number}"}).status_code

    with (
        another_gateway(world, "threads: 1, ") as (other, _),
        psycopg.connect(world.stack.admin_url, autocommit=True) as admin,
    ):
        assert call(other, 0) == 200
        # As when others have taken all that Postgres allows: nobody of this role logs in any more.
        admin.execute("alter role trunkline_gateway connection limit 1")
        try:
            assert [call(other, number) for number in range(1, 13)] == [200] * 12
        finally:
            admin.execute("alter role trunkline_gateway connection limit -1")


def test_two_gateways_on_one_database_lose_and_double_nothing(world: World) -> None:
    stack = world.stack
    key, key_id = stack.inference_key()
    before = totals(stack)
    with another_gateway(world) as (other, spool):
        loads = [Load(stack, key), Load(other, key)]
        with loads[0], loads[1]:
            for load in loads:
                assert load.more(30)
            _kill(world.postgres)
            for load in loads:
                assert load.more(30)
            world.postgres.start()
            for load in loads:
                assert load.more(30)
        assert [load.broken for load in loads] == [[], []]
        answered = Counter(call for load in loads for call in load.answered)
        assert eventually(lambda: recorded(stack, key_id) == answered)
        assert eventually(lambda: summed(stack, key_id) == totals(stack) - before)
        assert not (spool / "rejected.jsonl").exists()


def test_a_spool_at_its_bound_refuses_until_postgres_is_back(world: World) -> None:
    with another_gateway(world, "spool_max_bytes: 20000, ") as (stack, _):
        key, key_id = world.stack.inference_key()
        ask = {"model": "gpt", "messages": [{"role": "user", "content": "say full"}]}
        with stack.http(key) as http:
            answered = [http.post(CHAT, json=ask).headers["x-trunkline-call"]]
            world.postgres.stop()
            try:
                while (answer := http.post(CHAT, json=ask)).status_code == 200:
                    answered.append(answer.headers["x-trunkline-call"])
                    assert len(answered) < 200
                assert answer.status_code == 503
                assert answer.headers["retry-after"]
                assert "spool is full" in answer.json()["error"]["message"]
                refused = http.post("/v1/messages", json={**ask, "model": "claude", "max_tokens": 5})
                assert refused.status_code == 503
                assert refused.json()["type"] == "error"
            finally:
                world.postgres.start()
            assert eventually(lambda: http.post(CHAT, json=ask).status_code == 200)
        assert len(answered) > 10
        assert eventually(lambda: not set(answered) - set(recorded(world.stack, key_id)))
        assert set(recorded(world.stack, key_id).values()) == {1}


def test_a_full_disk_is_said_and_loses_nothing_that_was_answered(world: World) -> None:
    with another_gateway(world) as (stack, spool):
        key, key_id = world.stack.inference_key()
        ask = {"model": "gpt", "messages": [{"role": "user", "content": "say tight"}]}
        assert stack.gateway.process is not None
        pid = stack.gateway.process.pid
        with stack.http(key) as http:
            answered = [http.post(CHAT, json=ask).headers["x-trunkline-call"]]
            world.postgres.stop()
            try:
                (file,) = spool.glob("*.jsonl")
                room = max(file.stat().st_size, stack.gateway.log.stat().st_size) + 20_000
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
                while (answer := http.post(CHAT, json=ask)).status_code == 200:
                    answered.append(answer.headers["x-trunkline-call"])
                    assert len(answered) < 200
                assert answer.status_code == 503
                assert "disk is full" in answer.json()["error"]["message"]
                streamed = http.post(CHAT, json={**ask, "stream": True})
                assert "[DONE]" not in streamed.text
                assert "disk is full" in streamed.text
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                again = http.post(CHAT, json=ask)
                assert again.status_code == 200
                answered.append(again.headers["x-trunkline-call"])
            finally:
                world.postgres.start()
            assert len(answered) > 10
            assert eventually(lambda: recorded(world.stack, key_id) == Counter(answered))
        assert not (spool / "rejected.jsonl").exists()


def test_memory_that_cannot_be_read(world: World) -> None:
    stack = world.stack
    easy, strict = make_agent(stack), make_agent(stack, on_unavailable="fail")
    copying = make_agent(stack, refresh_on_every_turn=False, recall=False, recall_tokens=0, on_unavailable="fail")
    with stack.http() as http:
        for agent in (easy, strict, copying):
            operation = {"op": "set", "field": "name", "value": "Ada"}
            assert write(http, agent, "customer", operation, user_id="cus_1").status_code == 200

    def ask(agent: str, **headers: str) -> Any:
        return stack.openai().chat.completions.with_raw_response.create(
            model=f"agent/{agent}",
            messages=[{"role": "user", "content": "What is my name?"}],
            user="cus_1",
            extra_headers=headers,
        )

    def says(raw: Any) -> str:
        return str(raw.parse().choices[0].message.content)

    sessions = [ask(agent) for agent in (easy, strict, copying)]
    assert all("Ada" in says(raw) for raw in sessions)
    named = sessions[0].headers["x-trunkline-session"]
    before = len(stack.events(named))
    world.postgres.stop()
    try:
        raw = ask(easy)
        assert raw.headers["x-trunkline-memory"] == "unavailable"
        assert "Ada" not in says(raw)
        assert not stack.asked()[-1]["body"].get("tools"), "tools that cannot be carried out are not offered"
        for _ in range(2):
            with pytest.raises(openai.InternalServerError, match="on_unavailable") as refused:
                ask(strict)
            assert refused.value.status_code == 503
            assert refused.value.response.headers["retry-after"]
        # A session of another user can be named, since nobody can look; its log must not get the turn.
        stack.openai().chat.completions.create(
            model=f"agent/{easy}",
            messages=[{"role": "user", "content": "say intruder"}],
            user="cus_2",
            extra_headers={"x-trunkline-session": named},
        )
        with stack.http() as http:
            answer = http.get("/v1/agents")
        assert answer.status_code in {502, 503}
        assert answer.json()["type"] == "error"
    finally:
        world.postgres.start()
    assert eventually(lambda: "Ada" in says(ask(easy)))
    assert eventually(lambda: "Ada" in says(ask(strict)))
    assert len(stack.events(named)) == before
    stack.openai().chat.completions.create(
        model=f"agent/{copying}", messages=[{"role": "user", "content": "hi"}], user="cus_1"
    )


@pytest.mark.parametrize("postgres", ["up", "away"])
def test_a_killed_gateway_loses_no_call_that_it_answered(world: World, postgres: str) -> None:
    stack = world.stack
    key, key_id = stack.inference_key()
    agent = make_agent(stack)
    with Load(stack, key, f"agent/{agent}") as load:
        assert load.more(30)
        if postgres == "away":
            world.postgres.stop()
            assert load.more(30)
        stack.gateway.send(signal.SIGKILL)
        stack.gateway.wait()
        load.stopping.set()
    if postgres == "away":
        world.postgres.start()
    stack.gateway.start()
    wait_ready(stack.base_url)

    def all_there() -> bool:
        return not set(load.answered) - set(recorded(stack, key_id))

    assert eventually(all_there), "a call that was answered is not in the books"
    assert set(recorded(stack, key_id).values()) == {1}
    if postgres == "away":
        assert eventually(lambda: metric(stack, "trunkline_spool_replayed_bytes_total") > 0), "the replay is seen"
    # What the dead process left is gone, and only the living one's file stays.
    assert eventually(lambda: len(list(world.spool.glob("*.jsonl"))) == 1)


def test_a_gateway_that_is_stopped_breaks_no_answer(world: World) -> None:
    stack = world.stack
    key, key_id = stack.inference_key()
    slow: list[str] = []

    def tell_slowly() -> None:
        stream = stack.openai(key).chat.completions.create(
            model="gpt", messages=[{"role": "user", "content": "take your time"}], stream=True
        )
        begun.release()
        slow.append("".join(chunk.choices[0].delta.content or "" for chunk in stream))

    begun = threading.Semaphore(0)
    with Load(stack, key) as load, ThreadPoolExecutor(4) as pool:
        told = [pool.submit(tell_slowly) for _ in range(4)]
        for _ in told:
            assert begun.acquire(timeout=30)
        assert load.more(10)
        stack.gateway.send(signal.SIGTERM)
        assert stack.gateway.wait() == 0
        load.stopping.set()
        for one in told:
            one.result()
    assert load.broken == []
    assert [text.split()[-1] for text in slow] == ["sixteen"] * 4
    # All of it was delivered before the end.
    assert sum(recorded(stack, key_id).values()) == len(load.answered) + 4
    assert list(world.spool.glob("*.jsonl")) == []
    stack.gateway.start()
    wait_ready(stack.base_url)


def test_a_client_that_goes_away_is_recorded_as_such(world: World) -> None:
    stack = world.stack
    key, key_id = stack.inference_key()
    body = {"model": "gpt", "stream": True, "messages": [{"role": "user", "content": "take your time"}]}
    with stack.http(key) as http, http.stream("POST", CHAT, json=body) as answer:
        lines = answer.iter_lines()
        next(lines)

    def found() -> list[dict[str, Any]]:
        return stack.rows(
            "select status, error_type, estimated from trunkline.usage where key_id = %s", key_id.removeprefix("key_")
        )

    assert eventually(found)
    assert found() == [{"status": 499, "error_type": "client_closed_request", "estimated": True}]
