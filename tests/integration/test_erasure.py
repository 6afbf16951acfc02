"""Erasing a user or a session: nothing of it is left in any table, and nothing of anybody else's goes."""

from __future__ import annotations

import base64
import hashlib
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from support.control_plane import ControlPlane
from support.memory import new_agent, ok, write
from support.postgres import DatabaseUrls
from trunkline.cli.app import run

RECORD = (
    "select trunkline.gateway_record(array(select r from jsonb_populate_recordset(null::trunkline.call_row, %s) as r))"
)

THREADS = {"threads", "thread_items", "checkpoints", "checkpoint_channels", "checkpoint_writes"}


def rows_with(database: DatabaseUrls, word: str) -> dict[str, int]:
    """Count the rows that have a word anywhere, by table, over all tables there are."""
    with psycopg.connect(database.admin_url) as admin:
        names = admin.execute(
            "select relname from pg_class c join pg_namespace n on n.oid = c.relnamespace "
            "where n.nspname = 'trunkline' and c.relkind in ('r', 'p') and not c.relispartition order by 1"
        ).fetchall()
        counts: dict[str, int] = {}
        for (name,) in names:
            count = sql.SQL(
                "select count(*) from trunkline.{} t where strpos(t::text, %s) > 0 or strpos(t::text, %s) > 0"
            )
            row = admin.execute(count.format(sql.Identifier(name)), (word, word.encode().hex())).fetchone()
            assert row is not None
            if row[0]:
                counts[name] = row[0]
        return counts


def said(
    database: DatabaseUrls, key: tuple[UUID, UUID], agent: str, user: str, word: str, *, day: str = "2026-11-20"
) -> str:
    """Have a gateway record a call of a user who says a word, with its bodies and answers kept; return the session."""
    (tenant, key_id), session, call = key, uuid4(), uuid4()

    def event(role: str, kind: str) -> dict[str, Any]:
        text = f"{role} tells of {word}"
        payload = {"content": [{"type": "text", "text": text}]}
        made = {"id": str(uuid4()), "type": kind, "payload": payload}
        return {"chain": hashlib.sha256(f"{session}{role}".encode()).hexdigest(), "role": role, "text": text} | {
            "events": [made]
        }

    turn = {
        "session": str(session),
        "fork": str(uuid4()),
        "forks": False,
        "store": str(uuid4()),
        "agent": str(UUID(agent.removeprefix("agent_"))),
        "agent_version": 1,
        "user": user,
        "prefix": None,
        "remember": True,
        "messages": [event("user", "user.message"), event("assistant", "agent.message")],
        "after": [],
    }
    body = {"text": word, "bytes": len(word), "truncated": False}
    row = {
        "tenant": str(tenant),
        "call": str(call),
        "at": f"{day}T10:00:00Z",
        "key": str(key_id),
        "agent": turn["agent"],
        "session": str(session),
        "user_id": user,
        "model": "m",
        "wire": "openai_chat",
        "stream": False,
        "status": 200,
        "source": "provider",
        "cost_usd": 0.25,
        "estimated": False,
        "turn": turn,
        "bodies": {"request": body, "response": body, "keep_days": 3650},
    }
    numbers = ("input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens")
    row |= dict.fromkeys((*numbers, "rounds", "retries", "total_us", "overhead_us"), 1)
    answer = hashlib.sha256(call.bytes).digest()
    row["idempotency"] = {"key": answer.hex(), "answer": {"status": 200, "body": word}}
    with psycopg.connect(database.gateway_url) as gateway:
        gateway.execute(
            "select * from trunkline.gateway_idempotency_begin(%s, %s, %s, %s, %s, %s, 60000)",
            (tenant, key_id, answer, answer, call, uuid4()),
        )
        gateway.execute(RECORD, (Jsonb([row]),))
        gateway.execute(
            "select trunkline.gateway_cache_put(%s, %s, %s, 'text/plain', 'u', %s, 3600000)",
            (tenant, answer, call, word.encode()),
        )
    return f"sesn_{session.hex}"


def live(control: ControlPlane, database: DatabaseUrls, agent: str, user: str, word: str) -> str:
    """Give a user sessions, blocks of both scopes with a history, passages and bodies; return the first session."""
    with psycopg.connect(database.admin_url) as admin:
        key = admin.execute("select tenant_id, id from trunkline.api_keys order by created_at limit 1").fetchone()
    assert key is not None
    session = said(database, key, agent, user, word)
    said(database, key, agent, user, word, day="2026-11-21")
    with control.http() as http:
        for value in (word, "changed"):
            name = {"op": "set", "field": "name", "value": value}
            ok(write(http, agent, "customer", name, user_id=user, session_id=session))
        topic = {"op": "set", "field": "topic", "value": word}
        ok(write(http, agent, "case", topic, user_id=user, session_id=session))
        for whom, whose in (("of the user", {"user_id": user}), ("of the session", {"session_id": session})):
            thread = ok(http.post("/v1/threads", json={"framework": "x", "name": f"{word} {whom}", **whose}))["id"]
            data = {"kind": "text", "data": base64.b64encode(word.encode()).decode()}
            held = {"channel": "c", "version": "1", **data}
            checkpoint = {"id": "1", "payload": data, "metadata": {"about": word}, "channels": {"c": "1"}}
            ok(http.post(f"/v1/threads/{thread}/checkpoints", json={**checkpoint, "values": [held]}))
            waiting = {"task_id": "t", "writes": [{"idx": 0, "channel": "c", **data}]}
            ok(http.post(f"/v1/threads/{thread}/checkpoints/1/writes", json=waiting))
            ok(http.post(f"/v1/threads/{thread}/items", json={"items": [{"said": word}]}))
        shared = ok(http.post("/v1/memory_stores", json={"name": "shared"}))["id"]
        texts = [{"text": f"{word} in a shared store", "session_id": session}]
        ok(http.post(f"/v1/memory_stores/{shared}/passages", json={"passages": texts}))
    return session


def fold(database: DatabaseUrls) -> None:
    with psycopg.connect(database.admin_url) as admin:
        stores = admin.execute("select tenant_id, id from trunkline.memory_stores").fetchall()
        for tenant, store in stores:
            admin.execute("select trunkline.fold_store(%s, %s)", (tenant, store))


def search(http: httpx.Client, word: str) -> list[str]:
    stores = ok(http.get("/v1/memory_stores"))["data"]
    answers = [http.post(f"/v1/memory_stores/{store['id']}/search", json={"query": word}) for store in stores]
    return [passage["text"] for answer in answers for passage in ok(answer)["data"]]


@pytest.mark.parametrize("folded", [False, True])
def test_of_an_erased_user_no_table_has_anything(control: ControlPlane, database: DatabaseUrls, folded: bool) -> None:
    agent = new_agent(control)
    gone = live(control, database, agent, "cus_gone", "zebrafax")
    live(control, database, agent, "cus_kept", "quokkamol")
    if folded:
        fold(database)
    kept = rows_with(database, "quokkamol"), rows_with(database, "cus_kept")
    assert {"events", "passages", "memory_versions", "call_bodies", "cached_answers"} <= rows_with(
        database, "zebrafax"
    ).keys()
    assert rows_with(database, "zebrafax").keys() >= THREADS
    with control.http() as http:
        spent = ok(http.get("/v1/usage"))
        done = ok(http.post("/v1/erase", json={"user_id": "cus_gone"}))
        assert done["kind"] == "user"
        assert done["erased"]["sessions"] == 2
        assert done["erased"]["calls_without_user"] == 2
        assert done["erased"]["memory_versions"] == 3
        assert done["erased"]["call_bodies"] == 2
        assert done["erased"]["kept_answers"] == 4
        assert [done["erased"][kind] for kind in ("threads", "thread_items", "checkpoints")] == [2, 2, 2]
        assert rows_with(database, "zebrafax") == rows_with(database, "cus_gone") == {}
        assert rows_with(database, str(UUID(gone.removeprefix("sesn_")))) == {"usage": 1}
        assert (rows_with(database, "quokkamol"), rows_with(database, "cus_kept")) == kept
        assert search(http, "zebrafax") == []
        assert len(search(http, "quokkamol")) == 3, "of texts that say the same, one is found"
        assert ok(http.get("/v1/usage")) == spent, "what calls took is still counted"
        past = "user_id=cus_gone&as_of=2999-01-01T00:00:00Z"
        assert "zebrafax" not in http.get(f"/v1/agents/{agent}/memory?{past}").text
        assert http.get(f"/v1/agents/{agent}/memory/customer/history?user_id=cus_gone").json().get("data", []) == []
        assert http.get(f"/v1/sessions/{gone}").status_code == 404
        again = ok(http.post("/v1/erase", json={"user_id": "cus_gone"}))
        assert set(again["erased"].values()) == {0}, "done twice, it finds nothing"
        noted = ok(http.get("/v1/erasures?user_id=cus_gone"))["data"]
        assert [one["erased"] for one in noted] == [again["erased"], done["erased"]]
        assert ok(http.get("/v1/erasures?user_id=cus_kept"))["data"] == []
        write_again = {"op": "set", "field": "name", "value": "New"}
        assert ok(write(http, agent, "customer", write_again, user_id="cus_gone"))["version"] == 1


def test_a_session_goes_alone_and_takes_its_forks(control: ControlPlane, database: DatabaseUrls) -> None:
    agent = new_agent(control)
    session = live(control, database, agent, "cus_42", "zebrafax")
    other = live(control, database, agent, "cus_42", "quokkamol")
    with psycopg.connect(database.admin_url) as admin:
        admin.execute(
            "insert into trunkline.sessions (tenant_id, id, agent_id, agent_version, origin, status, root_id, "
            "parent_id, parent_seq, created_at, updated_at) select tenant_id, gen_random_uuid(), agent_id, 1, 'api', "
            "'idle', id, id, 1, now(), now() from trunkline.sessions where id = %s",
            (session.removeprefix("sesn_"),),
        )
    with control.http() as http:
        kept = rows_with(database, "quokkamol")
        erased = ok(http.post("/v1/erase", json={"session_id": session}))["erased"]
        assert (erased["sessions"], erased["stores"], erased["call_bodies"]) == (2, 2, 1)
        assert erased["calls_without_user"] == 0
        assert erased["threads"] == 1
        assert rows_with(database, "quokkamol") == kept
        left = rows_with(database, "zebrafax")
        assert left.pop("memory_versions") == 1, "what the user's block learned is the user's"
        assert {left.pop(kind) for kind in THREADS} == {1}, "the user's own thread"
        assert sorted(left) == ["cached_answers", "call_bodies", "events", "idempotent_calls", "passages"], (
            "the user's other session said it too"
        )
        assert http.get(f"/v1/sessions/{session}").status_code == 404
        assert ok(http.get(f"/v1/sessions/{other}"))["id"] == other
        assert http.post("/v1/erase", json={"session_id": session}).status_code == 404


def test_nobody_erases_what_is_not_theirs(control: ControlPlane, database: DatabaseUrls) -> None:
    agent = new_agent(control)
    bystander = new_agent(control, "bystander")
    session = live(control, database, agent, "cus_42", "zebrafax")
    before = rows_with(database, "zebrafax"), rows_with(database, "cus_42")
    with control.http(control.another_tenant()) as http:
        assert set(ok(http.post("/v1/erase", json={"user_id": "cus_42"}))["erased"].values()) == {0}
        assert http.post("/v1/erase", json={"session_id": session}).status_code == 404
    with control.http(control.new_key(scopes=["memory", "manage"], agent_id=bystander)) as http:
        assert set(ok(http.post("/v1/erase", json={"user_id": "cus_42"}))["erased"].values()) == {0}
        assert http.post("/v1/erase", json={"session_id": session}).status_code == 404
    for scopes in (["memory"], ["manage"], ["inference"]):
        with control.http(control.new_key(scopes=scopes)) as http:
            assert http.post("/v1/erase", json={"user_id": "cus_42"}).status_code == 403
    with control.http() as http:
        for bad in ({}, {"user_id": "cus_42", "session_id": session}, {"user_id": ""}, {"user_id": "a\0"}):
            assert http.post("/v1/erase", json=bad).status_code == 400, bad
        assert ok(http.post("/v1/erase", json={"user_id": "cus_4_"}))["erased"]["sessions"] == 0
    assert (rows_with(database, "zebrafax"), rows_with(database, "cus_42")) == before
    with control.http(control.another_tenant("third")) as http:
        assert ok(http.get("/v1/erasures"))["data"] == []


def test_the_command_asks_for_the_id_again(
    control: ControlPlane, database: DatabaseUrls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRUNKLINE_BASE_URL", control.base_url)
    monkeypatch.setenv("TRUNKLINE_API_KEY", control.key)
    live(control, database, new_agent(control), "cus_42", "zebrafax")
    before = rows_with(database, "zebrafax")
    monkeypatch.setattr("typer.prompt", lambda *_args, **_more: "cus_43")
    assert run(["memory", "erase", "--user", "cus_42"]) == 2
    assert run(["memory", "erase"]) == 2
    assert rows_with(database, "zebrafax") == before
    assert run(["memory", "erase", "--user", "cus_42", "--yes"]) == 0
    assert "2 sessions" in capsys.readouterr().out
    assert rows_with(database, "zebrafax") == {}
