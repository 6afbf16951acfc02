"""A store as a file: what is exported and imported is the same store, and a bad file changes nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.control_plane import ControlPlane
from support.memory import SESSION, new_agent, ok, write
from support.postgres import DatabaseUrls
from trunkline.cli.app import run
from trunkline.client import AsyncTrunkline, Trunkline, memory_files
from trunkline.errors import Conflict

NDJSON = {"content-type": "application/x-ndjson"}

texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40).filter(str.strip)
names = st.sampled_from(["a", "b", "c/d", "c/e", "f/g/h"])
steps = st.one_of(
    st.tuples(st.just("write"), names, texts),
    st.tuples(st.just("delete"), names, st.just("")),
    st.tuples(st.just("redact"), names, st.just("")),
    st.tuples(st.just("rename"), names, st.just("")),
    st.tuples(st.just("say"), st.sampled_from([SESSION, ""]), texts),
    st.tuples(st.just("document"), names, texts),
)


@pytest.fixture(scope="module")
def elsewhere(plane: ControlPlane) -> Iterator[httpx.Client]:
    """An empty tenant."""
    with plane.http(plane.another_tenant("elsewhere")) as http:
        yield http


def new_store(http: httpx.Client, **more: Any) -> str:
    return str(ok(http.post("/v1/memory_stores", json={"name": "facts", **more}))["id"])


def exported(http: httpx.Client, store: str) -> str:
    answer = http.get(f"/v1/memory_stores/{store}/export")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    return answer.text


def imported(http: httpx.Client, store: str, text: str, **query: Any) -> httpx.Response:
    return http.post(f"/v1/memory_stores/{store}/import", content=text.encode(), headers=NDJSON, params=query)


def act(http: httpx.Client, store: str, step: tuple[str, str, str]) -> None:
    """Do one thing to a store; some things cannot be done at this moment, and are not."""
    kind, name, text = step
    path = f"/v1/memory_stores/{store}"
    there = {
        memory["path"]: memory for memory in ok(http.get(f"{path}/memories"))["data"] if memory["type"] == "memory"
    }
    memory = there.get(f"/{name}")
    match kind:
        case "write" if memory:
            ok(http.post(f"{path}/memories/{memory['id']}", json={"content": text}))
        case "write":
            ok(http.post(f"{path}/memories", json={"path": f"/{name}", "content": text}))
        case "delete" if memory:
            ok(http.delete(f"{path}/memories/{memory['id']}"))
        case "rename" if memory:
            ok(http.post(f"{path}/memories/{memory['id']}", json={"path": f"/moved/{uuid4().hex}"}))
        case "redact":
            for version in ok(http.get(f"{path}/memory_versions"))["data"][1:3]:
                http.post(f"{path}/memory_versions/{version['id']}/redact", json={})
        case "say":
            passage = {"text": text * 40, "tags": ["t"], "metadata": {"k": text}} | (
                {"session_id": name} if name else {}
            )
            ok(http.post(f"{path}/passages", json={"passages": [passage, {"text": text, "role": "assistant"}]}))
        case "document":
            ok(http.post(f"{path}/ingest", json={"documents": [{"text": text, "id": name, "metadata": {"n": 1.5}}]}))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(steps, max_size=12))
def test_what_is_imported_is_exported_the_same(
    http: httpx.Client, elsewhere: httpx.Client, done: list[tuple[str, str, str]]
) -> None:
    store = new_store(http, description="d", metadata={"b": "2", "a": "1"}, expire_after_days=9)
    for step in done:
        act(http, store, step)
    text = exported(http, store)
    assert exported(http, store) == text, "the same store, the same bytes"
    lines = [json.loads(line) for line in text.splitlines()]
    copy = new_store(elsewhere, description="d", metadata={"a": "1", "b": "2"}, expire_after_days=9)
    told = ok(imported(elsewhere, copy, text))
    assert told["given"] == told["added"]
    assert sum(told["given"].values()) == len(lines) - 2
    assert exported(elsewhere, copy) == text
    again = ok(imported(elsewhere, copy, text))
    assert set(again["added"].values()) == {0}
    assert exported(elsewhere, copy) == text
    elsewhere.delete(f"/v1/memory_stores/{copy}")


@pytest.fixture(scope="module")
def kept(plane: ControlPlane, urls: DatabaseUrls) -> str:
    """The file of a user's memory: blocks with a history, of every state, and what was said."""
    memory = {
        "blocks": {
            "customer": {
                "scope": "user",
                "fields": {
                    "name": {"type": "string", "required": True},
                    "address": {"type": "string", "on_conflict": "record"},
                    "mood": {"type": "string", "stale_after": "12h"},
                    "visits": {"type": "number"},
                },
            },
            "empty": {"scope": "user", "fields": {"x": {"type": "string"}}},
        }
    }
    agent = new_agent(plane, "keeper", memory)
    with plane.http() as http:
        who = {"user_id": "cus_42", "session_id": SESSION}
        for field, value in (("name", "Ada <b>"), ("address", "A"), ("mood", "glad"), ("visits", 1.5), ("name", "Eve")):
            ok(write(http, agent, "customer", {"op": "set", "field": field, "value": value}, **who))
        ok(write(http, agent, "customer", {"op": "set", "field": "address", "value": "B"}, **who))
        ok(write(http, agent, "customer", {"op": "increment", "field": "visits", "value": 2}, user_id="cus_42"))
        ok(write(http, agent, "empty", {"op": "set", "field": "x", "value": "1"}, user_id="cus_42"))
        ok(write(http, agent, "empty", {"op": "remove", "field": "x"}, user_id="cus_42"))
        store = store_of(http, agent, "cus_42")
        ok(http.post(f"/v1/memory_stores/{store}/passages", json={"passages": [{"text": "I moved to B Road."}]}))
        return exported(http, store)


def store_of(http: httpx.Client, agent: str, user: str) -> str:
    blocks = ok(http.get(f"/v1/agents/{agent}/memory?user_id={user}"))["blocks"]
    return str(next(block["store_id"] for block in blocks if block["store_id"]))


def elsewhere_agent(plane: ControlPlane, kept: str) -> tuple[str, str]:
    """Declare in an empty tenant what the file says of its blocks; return a key of it and the agent."""
    key = plane.another_tenant(f"tenant-{uuid4().hex}")
    blocks = {}
    for line in map(json.loads, kept.splitlines()):
        if line["type"] == "block":
            rules = line.get("options", {}).get("rules", {})
            schema = line["schema"]
            fields = {name: {**field, **rules.get(name, {})} for name, field in schema["properties"].items()}
            for name in schema.get("required", ()):
                fields[name]["required"] = True
            blocks[line["name"]] = {"scope": line["scope"], "fields": fields}
    return key, new_agent(plane, "keeper", {"blocks": blocks}, key)


def test_an_agents_memory_moves_with_its_history_and_goes_on(plane: ControlPlane, kept: str) -> None:
    key, agent = elsewhere_agent(plane, kept)
    with plane.http() as http, plane.http(key) as there:
        url = f"/v1/agents/{agent}/memory_import?user_id=cus_42"
        told = ok(there.post(url, content=kept, headers=NDJSON))
        assert told["added"]["memories"] == 2
        store = told["memory_store_id"]
        before = ok(http.get("/v1/agents/keeper/memory?user_id=cus_42"))["blocks"]
        after = ok(there.get(f"/v1/agents/{agent}/memory?user_id=cus_42"))["blocks"]
        for block in (*before, *after):
            del block["store_id"]
        assert after == before, "what the model reads, and what is known of each field"
        assert exported(there, store) == exported(http, store_of(http, "keeper", "cus_42"))
        past = "/v1/agents/keeper/memory/customer?user_id=cus_42&as_of=2999-01-01T00:00:00Z"
        assert ok(there.get(past))["value"] == ok(http.get(past))["value"]
        found = ok(there.post(f"/v1/memory_stores/{store}/search", json={"query": "moved road"}))["data"]
        assert [passage["text"] for passage in found] == ["I moved to B Road."]
        on = ok(write(there, agent, "customer", {"op": "set", "field": "name", "value": "New"}, user_id="cus_42"))
        assert on["version"] == next(block["version"] for block in before if block["block"] == "customer") + 1
        refused = there.post(url, content=kept, headers=NDJSON)
        assert refused.status_code == 409
        assert "was written since" in refused.json()["error"]["message"]
        ok(there.post(f"/v1/agents/{agent}/memory_import?user_id=cus_43&ids=new", content=kept, headers=NDJSON))
        assert ok(there.get(f"/v1/agents/{agent}/memory/customer?user_id=cus_43"))["value"]["name"] == "Eve"
        assert ok(there.get(f"/v1/agents/{agent}/memory/customer?user_id=cus_42"))["value"]["name"] == "New"
        assert there.post(f"/v1/agents/{agent}/memory_import", content=kept, headers=NDJSON).status_code == 400


def test_a_block_needs_an_agent_that_declares_it(plane: ControlPlane, kept: str) -> None:
    key = plane.another_tenant(f"tenant-{uuid4().hex}")
    agent = new_agent(plane, "keeper", {"blocks": {"customer": {"scope": "user", "fields": {"name": {}}}}}, key)
    with plane.http(key) as http:
        url = f"/v1/agents/{agent}/memory_import?user_id=cus_42"
        for answer in (http.post(url, content=kept, headers=NDJSON), imported(http, new_store(http), kept)):
            assert answer.status_code == 400, answer.text
            assert answer.json()["error"]["message"].startswith("Line ")
        assert ok(http.get(f"/v1/agents/{agent}/memory/customer?user_id=cus_42"))["value"] in (None, {})
        plain = exported(http, new_store(http))
        assert http.post(url, content=plain, headers=NDJSON).status_code == 400


Lines = list[dict[str, Any]]


def of(lines: Lines, kind: str) -> dict[str, Any]:
    return next(line for line in lines if line["type"] == kind)


BAD: dict[str, Callable[[Lines], Any]] = {
    "no header": lambda lines: lines.pop(0),
    "two headers": lambda lines: lines.insert(1, lines[0]),
    "a later format": lambda lines: lines[0].update(format=2),
    "an unknown key": lambda lines: lines[1].update(tenant_id="t"),
    "an unknown type": lambda lines: lines[1].update(type="tenant"),
    "no end": lambda lines: lines.pop(),
    "a line lost": lambda lines: lines.pop(-2),
    "after the end": lambda lines: lines.append(lines[-2]),
    "out of order": lambda lines: lines.insert(1, lines.pop(-2)),
    "another content": lambda lines: of(lines, "memory").update(content="other"),
    "a content of a version": lambda lines: of(lines, "version").update(content="other"),
    "a path out": lambda lines: of(lines, "version").update(path="/../x"),
    "another path": lambda lines: of(lines, "memory").update(path="/other"),
    "a malformed id": lambda lines: of(lines, "memory").update(id="mem_1"),
    "an id of another kind": lambda lines: of(lines, "passage").update(id=of(lines, "memory")["id"]),
    "no such version": lambda lines: of(lines, "memory").update(version_id="memver_" + "0" * 32),
    "a number": lambda lines: of(lines, "memory").update(version=7),
    "the future": lambda lines: of(lines, "passage").update(created_at="2999-01-01T00:00:00Z"),
    "no time": lambda lines: of(lines, "passage").update(created_at="2026-01-01"),
    "states of a text": lambda lines: of(lines, "memory").update(states={}),
    "a block's": lambda lines: of(lines, "memory").update(block="customer"),
    "an actor": lambda lines: of(lines, "version").update(actor={"type": "god", "id": "x"}),
    "two of a number": lambda lines: lines.insert(2, {**of(lines, "version"), "id": "memver_" + "1" * 32}),
    "an empty text": lambda lines: of(lines, "passage").update(text=""),
    "nul": lambda lines: of(lines, "passage").update(text="a\0b"),
    "half a character": lambda lines: of(lines, "passage").update(text="a\ud800b"),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_file_is_refused_by_its_line_and_nothing_is_written(
    http: httpx.Client, elsewhere: httpx.Client, fault: str
) -> None:
    store = new_store(http)
    for path in ("/a", "/b"):
        act(http, store, ("write", path[1:], "one"))
        act(http, store, ("write", path[1:], "two"))
    act(http, store, ("say", SESSION, "hello"))
    lines = [json.loads(line) for line in exported(http, store).splitlines()]
    BAD[fault](lines)
    target = new_store(elsewhere)
    empty = exported(elsewhere, target)
    answer = imported(elsewhere, target, "".join(json.dumps(line) + "\n" for line in lines))
    assert answer.status_code == (409 if fault == "two of a number" else 400), answer.text
    message = answer.json()["error"]["message"]
    assert "Line " in message or "cut off" in message
    assert exported(elsewhere, target) == empty


def test_what_is_no_file_at_all_is_refused(http: httpx.Client) -> None:
    store = new_store(http)
    for body in (b"", b"\n", b"x", b"[]\n", b"null\n", b'{"type":"header"}\n', b"\xff\n", b"[" * 100_000, b"1e999\n"):
        answer = http.post(f"/v1/memory_stores/{store}/import", content=body, headers=NDJSON)
        assert answer.status_code == 400, (body[:20], answer.text)
    answer = http.post(f"/v1/memory_stores/{store}/import", json={"type": "header"})
    assert "application/x-ndjson" in answer.json()["error"]["message"]


def test_ids_of_others_are_not_taken(plane: ControlPlane, http: httpx.Client, elsewhere: httpx.Client) -> None:
    store = new_store(http)
    act(http, store, ("write", "a", "one"))
    act(http, store, ("say", SESSION, "hello"))
    text = exported(http, store)
    beside = new_store(http)
    answer = imported(http, beside, text)
    assert answer.status_code == 409, "the ids are another store's"
    assert answer.json()["error"]["code"] == "import_conflict"
    lines = text.splitlines(keepends=True)
    history = [line for line in lines if '"type":"memory"' not in line]
    history[-1] = json.dumps({"type": "end", "lines": len(history) - 1}) + "\n"
    assert imported(http, beside, "".join(history)).status_code == 409, "a history without its memory neither"
    ok(imported(http, beside, text, ids="new"))
    assert set(ok(imported(http, beside, text, ids="new"))["added"].values()) == {0}
    copies = ok(http.get(f"/v1/memory_stores/{beside}/memories?view=full"))["data"]
    mine = ok(http.get(f"/v1/memory_stores/{store}/memories?view=full"))["data"]
    assert [copy["content"] for copy in copies] == [memory["content"] for memory in mine] == ["one"]
    assert copies[0]["id"] != mine[0]["id"]
    target = new_store(elsewhere)
    ok(imported(elsewhere, target, text))
    ok(elsewhere.post(f"/v1/memory_stores/{target}/memories/{mine[0]['id']}", json={"content": "theirs"}))
    assert exported(http, store) == text, "another tenant's rows of the same ids are others"
    ok(http.post(f"/v1/memory_stores/{beside}/archive"))
    assert imported(http, beside, text, ids="new").status_code == 400
    with plane.http(plane.new_key(scopes=["memory"])) as reader:
        assert exported(reader, store) == text
        assert imported(reader, store, text).status_code == 403, "who may write history is trusted with it"


def test_a_check_writes_nothing(http: httpx.Client, elsewhere: httpx.Client) -> None:
    store, target = new_store(http), new_store(elsewhere)
    act(http, store, ("write", "a", "one"))
    empty = exported(elsewhere, target)
    told = ok(imported(elsewhere, target, exported(http, store), check=True))
    assert told["checked_only"]
    assert told["added"]["memories"] == 1
    assert exported(elsewhere, target) == empty


def test_the_command_line_and_the_clients_carry_large_files(
    plane: ControlPlane,
    http: httpx.Client,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    monkeypatch.setattr(memory_files, "PART", 2000)
    store = new_store(http, metadata={"a": "1"})
    for number in range(10):
        act(http, store, ("write", "a", f"{number}" * 300))
        act(http, store, ("say", SESSION, f"number {number}"))
    text = exported(http, store)
    assert len(list(memory_files.parts(text.splitlines()))) > 3
    key = plane.another_tenant("by-command-line")
    monkeypatch.setenv("TRUNKLINE_BASE_URL", plane.base_url)
    monkeypatch.setenv("TRUNKLINE_API_KEY", plane.key)
    file = tmp_path / "store.jsonl"
    assert run(["memory", "export", store, "-o", str(file)]) == 0
    assert run(["memory", "export", store]) == 0
    assert capsysbinary.readouterr().out.decode() == file.read_text() == text
    monkeypatch.setenv("TRUNKLINE_API_KEY", key)
    assert run(["memory", "import", str(file), "--json"]) == 0
    made = json.loads(capsysbinary.readouterr().out)
    with plane.http(key) as there:
        assert exported(there, made["memory_store_id"]) == text
        stores = len(ok(there.get("/v1/memory_stores"))["data"])
        file.write_text(text[:-30])
        assert run(["memory", "import", str(file)]) == 2
        assert len(ok(there.get("/v1/memory_stores"))["data"]) == stores, "nothing is left of what failed"
    file.write_text(
        '{"type":"header","format":1,"store":{"name":"user","scope":"user","managed":true}}\n{"type":"end","lines":1}\n'
    )
    assert run(["memory", "import", str(file)]) == 2
    assert b"--agent" in capsysbinary.readouterr().err
    with Trunkline(plane.base_url, plane.key) as client, pytest.raises(Conflict, match="Line 2:"):
        client.memory_stores.import_lines(client.memory_stores.create("copy"), text.splitlines())

    async def both() -> None:
        async with AsyncTrunkline(plane.base_url, plane.key) as client:
            lines = [line async for line in client.memory_stores.export(store)]
            assert "".join(lines) == text
            copy = await client.memory_stores.create("copy")
            done = await client.memory_stores.import_lines(copy, lines, new_ids=True)
            assert done.added["versions"] == 10

    asyncio.run(both())


def test_an_export_is_one_moment(http: httpx.Client, urls: DatabaseUrls) -> None:
    store = new_store(http)
    act(http, store, ("write", "a", "one"))
    for number in range(3):
        texts = [{"text": f"{number} {'long ' * 150}{index}"} for index in range(1000)]
        ok(http.post(f"/v1/memory_stores/{store}/passages", json={"passages": texts}))
    with http.stream("GET", f"/v1/memory_stores/{store}/export") as answer:
        chunks = answer.iter_text()
        text = next(chunks)
        with psycopg.connect(urls.admin_url) as admin:
            admin.execute("delete from trunkline.passages where store_id = %s", (store.removeprefix("memstore_"),))
        text += "".join(chunks)
    assert text.count('"type":"passage"') == 3000
    assert json.loads(text.splitlines()[-1]) == {"type": "end", "lines": 3003}
