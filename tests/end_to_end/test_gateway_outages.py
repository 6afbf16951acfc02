"""Postgres away, the gateway killed or stopped: no call fails for it, and what was answered is in the books."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import openai
import pytest

from support.memory import CUSTOMER, ok, write
from support.postgres import DatabaseUrls, temporary_home
from support.stack import Stack, eventually, serving, wait_ready
from trunkline.store.embedded import EmbeddedPostgres
from trunkline.store.migrate import migrate

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


def test_postgres_away_for_a_while_under_load(world: World) -> None:
    stack = world.stack
    key, key_id = stack.inference_key()
    agent = make_agent(stack)
    plain, remembering = Load(stack, key), Load(stack, key, f"agent/{agent}")
    with plain, remembering:
        assert plain.more(20)
        assert remembering.more(20)
        world.postgres.stop()
        try:
            assert plain.more(60)
            assert remembering.more(60)
            assert httpx.get(f"{stack.base_url}/readyz").status_code == 200
        finally:
            world.postgres.start()
        assert plain.more(20)
        assert remembering.more(20)
    assert (plain.broken, remembering.broken) == ([], [])
    assert (plain.untaken, remembering.untaken) == (0, 0)
    answered = Counter(plain.answered + remembering.answered)
    assert eventually(lambda: recorded(stack, key_id) == answered), "the books differ from what was answered"
    assert stack.usage(key_id=key_id)["requests"] == len(answered)
    # Each conversation's turn is in the log, once.
    turns = stack.rows(
        "select count(*) from trunkline.events e join trunkline.sessions s on s.id = e.session_id "
        "join trunkline.agents a on a.id = s.agent_id where a.name = %s and e.type = 'agent.message'",
        agent,
    )
    assert turns[0]["count"] == len(remembering.answered)
    assert not (world.spool / "rejected.jsonl").exists()


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
