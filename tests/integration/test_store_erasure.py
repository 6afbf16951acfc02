"""Erasing from one store: what was asked for is in no table any more, and all else is as it was."""

from __future__ import annotations

from typing import Any

import httpx
import psycopg
import pytest
from psycopg import sql

from support.control_plane import ControlPlane
from support.memory import SESSION, new_agent, ok, write
from support.postgres import DatabaseUrls
from trunkline.cli.app import run


def rows_with(urls: DatabaseUrls, word: str) -> set[str]:
    """The tables that have a word in them."""
    with psycopg.connect(urls.admin_url) as admin:
        names = admin.execute("select tablename from pg_tables where schemaname = 'trunkline'").fetchall()
        query = "select 1 from trunkline.{} t where strpos(t::text, %s) > 0 limit 1"
        return {
            name for (name,) in names if admin.execute(sql.SQL(query).format(sql.Identifier(name)), (word,)).fetchone()
        }


def remember(http: httpx.Client, word: str) -> str:
    """A store with two notes of a history, one of them deleted and one moved away, and three passages."""
    store = str(ok(http.post("/v1/memory_stores", json={"name": "s"}))["id"])
    path = f"/v1/memory_stores/{store}/memories"
    for name in ("notes/a", "notes/gone", "notes/moved", "other"):
        made = ok(http.post(path, json={"path": f"/{name}", "content": f"{word} {name}"}))["id"]
        ok(http.post(f"{path}/{made}", json={"content": f"{word} {name} again"}))
        if name == "notes/gone":
            ok(http.delete(f"{path}/{made}"))
        if name == "notes/moved":
            ok(http.post(f"{path}/{made}", json={"path": "/elsewhere"}))
    said: list[dict[str, Any]] = [
        {"text": f"{word} of a session", "session_id": SESSION},
        {"text": f"{word} of old", "created_at": "2020-01-01T00:00:00Z"},
        {"text": f"{word} of now"},
    ]
    ok(http.post(f"/v1/memory_stores/{store}/passages", json={"passages": said}))
    return store


def erase(http: httpx.Client, store: str, **part: Any) -> dict[str, int]:
    answer = ok(http.post(f"/v1/memory_stores/{store}/erase", json=part))
    assert answer["kind"] == "store"
    erased: dict[str, int] = answer["erased"]
    return erased


def left(http: httpx.Client, store: str) -> tuple[list[str], list[str]]:
    memories = ok(http.get(f"/v1/memory_stores/{store}/memories"))["data"]
    found = ok(http.post(f"/v1/memory_stores/{store}/search", json={"query": "zebrafax quokkamol"}))["data"]
    return [memory["path"] for memory in memories], sorted(passage["text"] for passage in found)


def test_what_lies_below_a_path_goes_with_its_history(http: httpx.Client, urls: DatabaseUrls) -> None:
    store, kept = remember(http, "zebrafax"), remember(http, "quokkamol")
    before = left(http, kept)
    assert erase(http, store, path_prefix="/notes/", before="2020-01-01T00:00:00Z") == {
        "memories": 0,
        "memory_versions": 0,
        "passages": 0,
    }
    # Three memories of two versions each; one was deleted and one moved, which are versions too.
    assert erase(http, store, path_prefix="/notes/") == {"memories": 2, "memory_versions": 8, "passages": 0}
    assert rows_with(urls, "zebrafax notes") == set()
    assert left(http, store)[0] == ["/other"]
    assert erase(http, store, path_prefix="/other/")["memories"] == 1, "a memory itself"
    assert rows_with(urls, "zebrafax") == {"passages"}
    assert left(http, kept) == before


def test_passages_go_by_session_and_time(http: httpx.Client, urls: DatabaseUrls) -> None:
    store = remember(http, "zebrafax")
    assert erase(http, store, session_id=SESSION, before="2020-01-01T00:00:00Z")["passages"] == 0
    assert erase(http, store, session_id=SESSION)["passages"] == 1
    assert left(http, store)[1] == ["zebrafax of now", "zebrafax of old"]
    assert erase(http, store, before="2020-06-01T00:00:00Z")["passages"] == 1
    assert left(http, store)[1] == ["zebrafax of now"]
    assert erase(http, store, since="2020-06-01T00:00:00Z")["passages"] == 1
    assert left(http, store) == (["/elsewhere", "/notes/a", "/other"], [])
    ok(http.post(f"/v1/memory_stores/{store}/archive"))
    assert erase(http, store, everything=True) == {"memories": 3, "memory_versions": 10, "passages": 0, "items": 0}
    noted = ok(http.get("/v1/erasures", params={"memory_store_id": store}))["data"]
    assert [sum(one["erased"].values()) for one in noted] == [13, 1, 1, 1, 0]


def test_a_block_erased_is_unknown_to_the_agent(plane: ControlPlane, http: httpx.Client) -> None:
    agent = new_agent(plane)
    ok(write(http, agent, "customer", {"op": "set", "field": "name", "value": "Ada"}, user_id="cus_42"))
    block = ok(http.get(f"/v1/agents/{agent}/memory?user_id=cus_42"))["blocks"][-1]
    assert erase(http, block["store_id"], path_prefix="/blocks/customer/")["memories"] == 1
    assert "Ada" not in http.get(f"/v1/agents/{agent}/memory?user_id=cus_42").text
    again = ok(write(http, agent, "customer", {"op": "set", "field": "name", "value": "Eve"}, user_id="cus_42"))
    assert again["version"] == 1


@pytest.mark.parametrize(
    "part",
    [
        {},
        {"everything": False},
        {"everything": True, "path_prefix": "/"},
        {"path_prefix": "/a/", "session_id": SESSION},
        {"path_prefix": "notes"},
        {"path_prefix": "/../"},
        {"since": "2020-01-01"},
        {"path": "/a"},
    ],
)
def test_who_does_not_say_what_erases_nothing(http: httpx.Client, part: dict[str, Any]) -> None:
    store = str(ok(http.post("/v1/memory_stores", json={"name": "s"}))["id"])
    ok(http.post(f"/v1/memory_stores/{store}/memories", json={"path": "/a", "content": "x"}))
    assert http.post(f"/v1/memory_stores/{store}/erase", json=part).status_code == 400
    assert len(ok(http.get(f"/v1/memory_stores/{store}/memories"))["data"]) == 1


def test_the_command_asks_for_the_store_again(
    plane: ControlPlane, http: httpx.Client, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = remember(http, "zebrafax")
    monkeypatch.setenv("TRUNKLINE_BASE_URL", plane.base_url)
    monkeypatch.setenv("TRUNKLINE_API_KEY", plane.key)
    command = ["memory", "erase", "--store", store]
    assert run([*command, "--yes"]) == 2
    assert run(["memory", "erase", "--user", "u", "--everything", "--yes"]) == 2
    assert run([*command, "--path-prefix", "/notes/", "--yes"]) == 0
    assert "2 memories" in capsys.readouterr().out
    assert run([*command, "--before", "2020-06-01", "--yes"]) == 0
    assert left(http, store) == (["/other"], ["zebrafax of a session", "zebrafax of now"])
