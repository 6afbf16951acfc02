"""Erasing a user or a session: nothing of it is left in any table, and nothing of anybody else's goes."""

from __future__ import annotations

import base64
from uuid import UUID

import httpx
import psycopg
import pytest

from support.control_plane import ControlPlane
from support.memory import new_agent, ok, write
from support.postgres import DatabaseUrls
from support.recording import first_key, rows_with, said
from trunkline.cli.app import run

THREADS = {"threads", "thread_items", "checkpoints", "checkpoint_channels", "checkpoint_writes"}


def live(control: ControlPlane, database: DatabaseUrls, agent: str, user: str, word: str) -> str:
    """Give a user sessions, blocks of both scopes with a history, passages and bodies; return the first session."""
    key = first_key(database)
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
