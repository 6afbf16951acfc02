"""Recall by meaning through the gateway: what is said is embedded by a worker, and queries within a time limit."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from support.memory import ok
from support.postgres import copied_database, temporary_home
from support.stack import Stack, eventually, serving
from trunkline.store.embedded import ConnectionInfo

MODEL = "oai/embed"


@contextmanager
def recalling(postgres: ConnectionInfo, template: str, model_url: str, embedder: str) -> Iterator[tuple[Stack, Path]]:
    with (
        temporary_home() as home,
        copied_database(postgres, template) as database,
        serving(database, model_url, home, more=f"memory: {{embedder: {embedder}}}\n") as stack,
    ):
        yield stack, home


@pytest.fixture(scope="module")
def placed(postgres: ConnectionInfo, migrated_template: str, scripted_model: str) -> Iterator[tuple[Stack, Path]]:
    embedder = f"{{model: {MODEL}, query_timeout_ms: 10000}}"
    with recalling(postgres, migrated_template, scripted_model, embedder) as placed:
        yield placed


@contextmanager
def worker(stack: Stack, home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker until the block ends."""
    environment = stack.gateway.environment | {"TRUNKLINE_BASE_URL": stack.base_url}
    command = [sys.executable, "-m", "trunkline", "worker", "--config", str(home / "trunkline.yaml")]
    with (home / "worker.log").open("a") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=home)
    try:
        yield process
        if process.poll() is None:
            process.terminate()
            assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


def make_agent(stack: Stack) -> str:
    name = f"helper-{uuid4().hex[:8]}"
    with stack.http() as http:
        ok(
            http.post(
                "/v1/agents", json={"name": name, "model": "gpt", "memory": {"backends": ["postgres", "pgvector"]}}
            )
        )
    return name


def ask(stack: Stack, agent: str, user: str, text: str, key: str | None = None) -> str | None:
    """Say something in a new session; return what the response tells of recall."""
    messages: Any = [{"role": "user", "content": text}]
    answer = stack.openai(key).chat.completions.with_raw_response.create(
        model=f"agent/{agent}", messages=messages, user=user
    )
    found: str | None = answer.headers.get("x-trunkline-recall")
    return found


def embedded(stack: Stack, at_least: int = 1) -> bool:
    """Tell whether so many passages have an embedding, and none waits for one."""
    (row,) = stack.rows(
        "select (select count(*) from trunkline.passage_embeddings) as made, "
        "(select count(*) from trunkline.embedding_queue) as waiting, "
        "(select count(*) from trunkline.passages) as passages"
    )
    return bool(row["made"] == row["passages"] >= at_least and row["waiting"] == 0)


def test_a_turn_is_found_by_meaning_once_it_is_embedded(placed: tuple[Stack, Path]) -> None:
    stack, home = placed
    agent, user = make_agent(stack), f"user-{uuid4().hex[:8]}"
    text, key_id = stack.inference_key()
    assert ask(stack, agent, user, "the red kettle is broken", text) == "lexical; reason=not_embedded"
    with worker(stack, home):
        assert eventually(lambda: embedded(stack, 2))
    question = f"which kettle, {user}?"
    assert ask(stack, agent, user, question, text) == "hybrid"
    assert ask(stack, agent, user, question, text) == "hybrid"
    # The model server keeps the newest requests alone: ours are known by their text.
    asked = [entry for entry in stack.asked() if entry["path"] == "/v1/embeddings" and question in str(entry["body"])]
    assert len(asked) == 1, "a text that comes again is not embedded again"
    assert "the red kettle is broken" in str(stack.asked()[-1]["body"])
    # The query's embedding is a call of the client's key, in its usage.
    assert eventually(lambda: stack.usage(key_id=key_id, wire="embeddings")["requests"] == 2)
    assert stack.usage(key_id=key_id, wire="embeddings")["input_tokens"] > 0


def test_stores_of_the_agent_are_searched_by_meaning_too_and_sessions_keep_their_versions(
    placed: tuple[Stack, Path],
) -> None:
    stack, home = placed
    user, word = f"user-{uuid4().hex[:8]}", uuid4().hex[:8]
    with stack.http() as http:
        stores = [ok(http.post("/v1/memory_stores", json={"name": name}))["id"] for name in ("first", "second")]
        for number, store in enumerate(stores):
            passages = [{"text": f"the {word} kettle of store {number} is broken"}]
            ok(http.post(f"/v1/memory_stores/{store}/passages", json={"passages": passages}))
        given = {"name": f"helper-{word}", "model": "gpt", "memory": {"stores": [{"store": stores[0]}]}}
        agent = ok(http.post("/v1/agents", json=given))
        session = ok(http.post("/v1/sessions", json={"agent": agent["id"], "user_id": user}))["id"]
        change = {"version": 1, "memory": {"stores": [{"store": store} for store in stores]}}
        ok(http.post(f"/v1/agents/{agent['id']}", json=change))
    question = f"which {word} kettle?"
    with worker(stack, home):
        assert eventually(lambda: embedded(stack, 2))
        assert ask(stack, agent["name"], user, question) == "hybrid"
        asked = str(stack.asked()[-1]["body"])
        assert f"- [first] the {word} kettle of store 0 is broken" in asked
        assert f"- [second] the {word} kettle of store 1 is broken" in asked
        with stack.http() as http:
            event = {"type": "user.message", "content": [{"type": "text", "text": question}]}
            ok(http.post(f"/v1/sessions/{session}/events", json={"events": [event]}))
        assert eventually(lambda: any(event.type == "agent.message" for event in stack.events(session)))
    asked = next(str(one["body"]) for one in reversed(stack.asked()) if one["path"] != "/v1/embeddings")
    assert question in asked
    assert f"- [first] the {word} kettle of store 0 is broken" in asked
    assert "[second]" not in asked


def test_nobody_else_is_recalled(placed: tuple[Stack, Path]) -> None:
    stack, home = placed
    agent, user = make_agent(stack), f"user-{uuid4().hex[:8]}"
    ask(stack, agent, user, "my secret is a purple umbrella")
    with worker(stack, home):
        assert eventually(lambda: embedded(stack))
    with stack.http() as http:
        other_tenant = str(ok(http.post("/v1/tenants", json={"name": f"other-{uuid4().hex[:8]}"}))["key"])
    with stack.http(other_tenant) as http:
        ok(
            http.post(
                "/v1/agents", json={"name": agent, "model": "gpt", "memory": {"backends": ["postgres", "pgvector"]}}
            )
        )
    for somebody, key in ((f"{user}-else", None), (user, other_tenant)):
        ask(stack, agent, somebody, "what is the secret of the purple umbrella?", key)
        assert "my secret is" not in str(stack.asked()[-1]["body"])


def test_a_worker_killed_before_it_stores_loses_and_doubles_nothing(placed: tuple[Stack, Path]) -> None:
    stack, home = placed
    agent, user = make_agent(stack), f"user-{uuid4().hex[:8]}"
    with worker(stack, home):
        ask(stack, agent, user, "something to begin with")
        assert eventually(lambda: embedded(stack))
    ask(stack, agent, user, "said before the worker is killed")
    assert eventually(lambda: stack.rows("select 1 from trunkline.embedding_queue") != [])
    held = "select 1 from pg_locks where not granted and relation = 'trunkline.passage_embeddings'::regclass"
    with psycopg.connect(stack.admin_url) as connection, worker(stack, home) as killed:
        connection.execute("lock table trunkline.passage_embeddings in exclusive mode")
        assert eventually(lambda: stack.rows(held) != []), "the worker comes to store what it has embedded"
        killed.send_signal(signal.SIGKILL)
        killed.wait(10)
        connection.rollback()
    assert not embedded(stack)
    stack.rows("update trunkline.embedding_queue set ready_at = now() returning 1")  # the time of the claim passes
    with worker(stack, home):
        assert eventually(lambda: embedded(stack))
    assert stack.rows("select place from trunkline.passage_embeddings group by 1 having count(*) > 1") == []
    assert ask(stack, agent, user, "what was said?") == "hybrid"


def test_a_slow_embedder_is_not_waited_for(
    postgres: ConnectionInfo, migrated_template: str, scripted_model: str
) -> None:
    embedder = "{model: oai/slow-2000, query_timeout_ms: 50}"
    with recalling(postgres, migrated_template, scripted_model, embedder) as (stack, _):
        agent = make_agent(stack)
        assert ask(stack, agent, "u", "the red kettle is broken") == "lexical; reason=timeout"
        assert ask(stack, agent, "u", "which kettle?") == "lexical; reason=embedder_resting"
        assert "the red kettle is broken" in str(stack.asked()[-1]["body"])


def test_without_an_embedder_recall_goes_by_words(stack: Stack) -> None:
    agent = make_agent(stack)
    text = f"the red kettle of {uuid4().hex} is broken"
    assert ask(stack, agent, "u", text) == "lexical"
    assert [entry["path"] for entry in stack.asked() if text in str(entry["body"])] == ["/v1/chat/completions"]
