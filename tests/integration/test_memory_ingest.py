"""Turns and documents given to a store, and found in it: through the API, as a client would."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from support.control_plane import ControlPlane, running
from support.memory import new_agent, ok, tool, write
from support.postgres import DatabaseUrls
from trunkline import AsyncTrunkline, Trunkline
from trunkline.api.deps import Embedding
from trunkline.cli.app import run as run_command
from trunkline.memory import embedding
from trunkline.memory.embedders import EmbeddingFailed, Vector
from trunkline.memory.embedders.local import LocalEmbedder
from trunkline.memory.embedders.queries import QueryVectors
from trunkline.memory.ingest import Document, sections
from trunkline.model_server.embeddings import vector
from trunkline.store.pool import Database, open_database

TURNS: list[dict[str, Any]] = [
    {"text": "I bought a red kettle.", "speaker": "Ada", "time": "2026-01-02T10:00:00Z", "session": "one"},
    {"text": "How is it?", "role": "assistant", "time": "2026-01-02T10:00:05Z", "session": "one"},
    {"text": "The kettle is broken.", "speaker": "Ada", "time": "2026-02-02T10:00:00Z", "session": "two"},
    {"text": "A lamp, then.", "speaker": "Bob", "session": "two", "tags": ["shop"], "metadata": {"aisle": "7"}},
]


@pytest.fixture
def plane(database: DatabaseUrls) -> Iterator[ControlPlane]:
    with running(database) as plane:
        yield plane


def make_store(http: httpx.Client) -> str:
    return str(ok(http.post("/v1/memory_stores", json={"name": "s"}))["id"])


def ingest(http: httpx.Client, store: str, **body: Any) -> Any:
    return ok(http.post(f"/v1/memory_stores/{store}/ingest", json=body))


def find(http: httpx.Client, store: str, query: str, **more: Any) -> list[dict[str, Any]]:
    answer = http.post(f"/v1/memory_stores/{store}/search", json={"query": query, **more})
    found: list[dict[str, Any]] = ok(answer)["data"]
    assert answer.headers["x-trunkline-recall"].startswith(answer.json()["mode"])
    return found


def test_turns_are_found_at_once_and_kept_once(plane: ControlPlane) -> None:
    with plane.http() as http:
        store = make_store(http)
        assert ingest(http, store, turns=TURNS) == {"type": "memory_ingest", "passages": 4, "added": 4}
        assert ingest(http, store, turns=[*TURNS[2:], {"text": "One more."}])["added"] == 1
        found = find(http, store, "kettle")
        contents = [passage["text"] for passage in found]
        assert {"Ada: I bought a red kettle.", "Ada: The kettle is broken."} <= set(contents)
        first = next(passage for passage in found if "bought" in passage["text"])
        assert first["created_at"].startswith("2026-01-02T10:00:00")
        assert first["metadata"] == {"session": "one", "speaker": "Ada"}
        assert first["id"].startswith("psg_")


def test_a_search_looks_only_where_it_is_told(plane: ControlPlane) -> None:
    with plane.http() as http:
        store = make_store(http)
        ingest(http, store, turns=TURNS)

        def among(**filters: Any) -> set[str]:
            return {passage["text"] for passage in find(http, store, "kettle it lamp then", **filters)}

        assert among(metadata={"session": "one"}) == {"Ada: I bought a red kettle.", "How is it?"}
        assert among(roles=["assistant"]) == {"How is it?"}
        assert among(tags=["shop"]) == among(metadata={"aisle": "7"}) == {"Bob: A lamp, then."}
        assert "Ada: The kettle is broken." not in among(
            **{"created_at[gte]": "2026-01-01T00:00:00Z", "created_at[lt]": "2026-02-01T00:00:00Z"}
        )
        assert among(metadata={"session": "three"}) == set()
        assert len(find(http, store, "kettle", limit=1)) == 1
        assert sum(passage["tokens"] for passage in find(http, store, "kettle", token_budget=8)) <= 8


def test_json_lines_and_documents(plane: ControlPlane) -> None:
    with plane.http() as http:
        store = make_store(http)
        path = f"/v1/memory_stores/{store}/ingest"

        def send(body: str, kind: str, **params: str) -> httpx.Response:
            return http.post(path, content=body.encode(), headers={"content-type": kind}, params=params)

        lines = "\n".join(json.dumps(turn) for turn in TURNS)
        assert ok(send(lines + "\n\n", "application/x-ndjson"))["added"] == 4
        manual = "# Kettle\n\nDescale it monthly.\n\n## Repair\n\nTurn the grey screw.\n```\n# no heading\n```\n"
        assert ok(send(manual, "text/markdown", id="manual"))["added"] == 2
        assert ok(send(manual, "text/markdown", id="manual"))["added"] == 0
        (screw,) = find(http, store, "screw", limit=1)
        assert screw["text"].startswith("Kettle > Repair\n\nTurn the grey screw.")
        assert screw["role"] == "document"
        assert ok(send(manual.replace("grey", "blue"), "text/markdown", id="manual"))["added"] == 2
        assert [passage["text"] for passage in find(http, store, "grey screw") if "grey" in passage["text"]] == []
        assert ok(send("Just a note about cats.", "text/plain", title="Note"))["passages"] == 1
        assert find(http, store, "cats")[0]["metadata"] == {"title": "Note"}

        for body, kind, complaint in [
            ("{}\nnonsense", "application/x-ndjson", "Line 2"),
            (r'{"text": "\u0000"}', "application/x-ndjson", "NUL"),
            (r'{"text": "\ud800"}', "application/x-ndjson", "surrogate"),
            ("a\0b", "text/plain", "NUL"),
            ("", "text/plain", "at least 1 character"),
            ("x", "application/pdf", "application/pdf"),
        ]:
            refused = send(body, kind)
            assert refused.status_code == 400, refused.text
            assert complaint in refused.json()["error"]["message"]
        assert http.post(path, content=b"\xff", headers={"content-type": "text/plain"}).status_code == 400


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "turns"),
        ({"turns": [{}]}, "turns.0.text"),
        ({"turns": [{"text": "x", "time": "yesterday"}]}, "turns.0.time"),
        ({"turns": [{"text": "x", "time": "2026-01-01T00:00:00"}]}, "turns.0.time"),
        ({"turns": [{"text": "x" * 100_001}]}, "turns.0.text"),
        ({"turns": [{"text": "x"}] * 10_001}, "turns"),
        ({"turns": [{"text": "x", "colour": "red"}]}, "turns.0.colour"),
        ({"documents": [{"text": "x", "format": "pdf"}]}, "documents.0.format"),
    ],
)
def test_what_cannot_be_kept_is_told(plane: ControlPlane, body: dict[str, Any], param: str) -> None:
    with plane.http() as http:
        answer = http.post(f"/v1/memory_stores/{make_store(http)}/ingest", json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


def test_an_idempotency_key_answers_twice(plane: ControlPlane) -> None:
    with plane.http() as http:
        path = f"/v1/memory_stores/{make_store(http)}/ingest"
        headers = {"idempotency-key": "k"}
        first = ok(http.post(path, json={"turns": TURNS}, headers=headers))
        assert ok(http.post(path, json={"turns": TURNS}, headers=headers)) == first
        assert first["added"] == 4
        assert http.post(path, json={"turns": TURNS[:1]}, headers=headers).status_code == 409


def test_long_texts_are_split_at_sentences_with_one_in_common(plane: ControlPlane, database: DatabaseUrls) -> None:
    sentences = [f"Sentence number {number} tells of the {number} kettles that were sold." for number in range(100)]
    with plane.http() as http:
        store = make_store(http)
        turn = {"text": " ".join(sentences), "session": "s"}
        passages = ingest(http, store, turns=[turn, {"text": "And that was all.", "session": "s"}])["passages"]
        assert ingest(http, store, turns=[turn])["added"] == 0
        (found,) = find(http, store, "sentence number 57", limit=1)
    assert "number 57 tells" in found["text"]
    with psycopg.connect(database.admin_url) as connection:
        rows = connection.execute("select content from trunkline.passages order by place").fetchall()
    parts = [row[0] for row in rows]
    assert len(parts) == passages > 5
    assert parts[-1] == "And that was all."
    assert all(len(part) <= 1200 and part.startswith("Sentence") and part.endswith("sold.") for part in parts[:-1])
    for one, next_one in itertools.pairwise(parts[:-1]):
        assert next_one.startswith(one[one.rindex("Sentence") :])
    assert [sentence for sentence in sentences if sentence not in " ".join(parts)] == []


@pytest.mark.parametrize(
    "text", ["x" * 5000, "wort " * 1000, "猫。" * 2000, "line\n" * 700, " " * 3000 + "end", "é" * 1201]
)
def test_any_text_is_split_and_nothing_is_lost(database: DatabaseUrls, text: str) -> None:
    with psycopg.connect(database.admin_url) as connection:
        rows = connection.execute("select trunkline.split_text(%s, 1200, 0)", (text,)).fetchall()
        again = connection.execute("select trunkline.split_text(%s, 1200, 0)", (text,)).fetchall()
    assert rows == again
    assert all(0 < len(part) <= 1200 for (part,) in rows)
    assert "".join("".join(part.split()) for (part,) in rows) == "".join(text.split())


def test_whoever_writes_a_long_passage_has_it_split(plane: ControlPlane, database: DatabaseUrls) -> None:
    """As the gateway does, which writes turns whole."""
    with plane.http() as http:
        store = make_store(http)
        with psycopg.connect(database.admin_url) as connection:
            connection.execute(
                "insert into trunkline.passages "
                "(tenant_id, store_id, id, session_id, role, content, tokens, created_at) "
                "select tenant_id, id, gen_random_uuid(), gen_random_uuid(), 'user', %s, 1, now() "
                "from trunkline.memory_stores",
                ("A kettle stood there. " * 200 + "The umbrella was purple.",),
            )
        (found,) = find(http, store, "umbrella", limit=1)
        assert len(found["text"]) <= 1200
        assert found["text"].endswith("The umbrella was purple.")
        assert found["tokens"] == (len(found["text"]) + 3) // 4


def test_markdown_is_cut_at_headings_outside_of_code() -> None:
    text = "intro\n# A\none\n```sh\n# not a heading\n```\n## B ##\ntwo\n# C\nthree\n"
    assert sections(Document(text, "markdown", title="T")) == [
        "T\n\nintro",
        "T > A\n\none\n```sh\n# not a heading\n```",
        "T > A > B\n\ntwo",
        "T > C\n\nthree",
    ]
    assert sections(Document(text)) == [text.strip()]


def test_another_tenant_finds_no_route_in(plane: ControlPlane) -> None:
    other = plane.another_tenant()
    weak = plane.new_key(scopes=["inference"])
    with plane.http() as http:
        store = make_store(http)
        ingest(http, store, turns=TURNS)
    routes: list[tuple[str, str, Any]] = [
        ("POST", "ingest", {"turns": TURNS}),
        ("POST", "search", {"query": "kettle"}),
        ("GET", "embeddings", None),
        ("POST", "embeddings/restart", None),
    ]
    for method, route, body in routes:
        path = f"/v1/memory_stores/{store}/{route}"
        for key, status in ((other, 404), (weak, 403)):
            with plane.http(key) as http:
                answer = http.request(method, path, json=body)
            assert answer.status_code == status, (route, answer.text)
            assert "kettle" not in answer.text
        with plane.anonymous() as http:
            assert http.request(method, path, json=body).status_code == 401
    # The same turns in a store of its own are other passages.
    with plane.http(other) as http:
        assert ingest(http, make_store(http), turns=TURNS)["added"] == 4


def test_an_archived_store_takes_nothing_in(plane: ControlPlane) -> None:
    with plane.http() as http:
        store = make_store(http)
        ingest(http, store, turns=TURNS)
        ok(http.post(f"/v1/memory_stores/{store}/archive"))
        assert http.post(f"/v1/memory_stores/{store}/ingest", json={"turns": TURNS}).status_code == 400
        assert find(http, store, "kettle") != []


class Failing:
    """An embedder that can be told to fail."""

    model = "mini"
    dimension = 64
    fails = False

    def __init__(self) -> None:
        self._local = LocalEmbedder(lambda texts: [vector(text, 64) for text in texts], "mini", 64)

    async def embed(self, tenant_id: Any, texts: Sequence[str]) -> list[Vector]:
        if self.fails:
            raise EmbeddingFailed("unavailable", "away")
        return await self._local.embed(tenant_id, texts)


def in_background(database: DatabaseUrls, act: Callable[[Database], Coroutine[Any, Any, Any]]) -> None:
    """Do what a worker does."""

    async def run() -> None:
        async with open_database(database.control_url) as pool:
            await act(pool)

    asyncio.run(run())


def test_a_search_is_hybrid_when_there_are_embeddings(database: DatabaseUrls) -> None:
    embedder = Failing()

    @contextlib.asynccontextmanager
    async def opened(database: Database) -> AsyncIterator[Embedding]:
        yield Embedding(QueryVectors(embedder, 5.0))

    with running(database, open_embedding=opened) as plane, plane.http() as http:
        in_background(database, lambda pool: embedding.configure(pool, "mini"))
        store = make_store(http)
        ingest(http, store, turns=TURNS)
        path = f"/v1/memory_stores/{store}"

        def recall(query: str) -> str:
            answer = http.post(f"{path}/search", json={"query": query})
            ok(answer)
            return answer.headers["x-trunkline-recall"]

        assert recall("kettle") == "lexical; reason=not_embedded"
        assert ok(http.get(f"{path}/embeddings"))["waiting"] == 4
        in_background(database, lambda pool: embedding.embed_batch(pool, embedder, 10))
        status = ok(http.get(f"{path}/embeddings"))
        assert (status["model"], status["embedded"], status["waiting"]) == ("mini", 4, 0)
        assert recall("kettle") == "hybrid"
        embedder.fails = True
        assert recall("kettle") == "hybrid", "what was embedded before is kept"
        assert recall("lamp") == "lexical; reason=embedder_failed"
        assert recall("lamp") == "lexical; reason=embedder_resting"
        again = ok(http.post(f"{path}/embeddings/restart"))
        assert (again["model"], again["waiting"]) == (None, 4)


def test_so_is_a_models_own_search(database: DatabaseUrls) -> None:
    embedder = Failing()

    @contextlib.asynccontextmanager
    async def opened(database: Database) -> AsyncIterator[Embedding]:
        yield Embedding(QueryVectors(embedder, 5.0))

    with running(database, open_embedding=opened) as plane, plane.http() as http:
        in_background(database, lambda pool: embedding.configure(pool, "mini"))
        agent = new_agent(plane)
        named = {"op": "set", "field": "name", "value": "Ada"}
        store = ok(write(http, agent, "customer", named, user_id="cus_42"))["store_id"]
        ingest(http, store, turns=TURNS)

        def search(query: str, **more: Any) -> tuple[str, str | None]:
            answer = tool(http, agent, "memory_search", {"query": query}, **more)
            return ok(answer)["content"], answer.headers.get("x-trunkline-recall")

        assert search("kettle")[1] == "lexical; reason=not_embedded"
        in_background(database, lambda pool: embedding.embed_batch(pool, embedder, 10))
        told, how = search("kettle")
        assert "kettle" in told
        assert how == "hybrid"
        assert "kettle" not in search("kettle", user_id="cus_43")[0]
        embedder.fails = True
        told, how = search("kettle grey")
        assert "kettle" in told, "words alone find it too"
        assert how == "lexical; reason=embedder_failed"
        assert "names no session" in search("kettle", user_id=None, session_id=None)[0]
        assert tool(http, agent, "memory_read", {}).headers.get("x-trunkline-recall") is None


def test_a_file_is_kept_from_the_command_line(
    plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRUNKLINE_BASE_URL", plane.base_url)
    monkeypatch.setenv("TRUNKLINE_API_KEY", plane.key)
    with plane.http() as http:
        store = make_store(http)
    (tmp_path / "talk.jsonl").write_text("".join(json.dumps(turn) + "\n" for turn in TURNS))
    (tmp_path / "manual.md").write_text("# Kettle\n\nTurn the grey screw.\n")
    (tmp_path / "broken.jsonl").write_text('{"text": "x"}\n[1]\n')

    def run(*command: str) -> tuple[int, Any]:
        status = run_command(["memory", *command, "--json"])
        said = capsys.readouterr().out
        return status, json.loads(said) if said else None

    assert run("ingest", store, str(tmp_path / "talk.jsonl")) == (0, {"passages": 4, "added": 4})
    assert run("ingest", store, str(tmp_path / "talk.jsonl")) == (0, {"passages": 4, "added": 0})
    assert run("ingest", store, str(tmp_path / "manual.md")) == (0, {"passages": 1, "added": 1})
    assert run("ingest", store, str(tmp_path / "broken.jsonl"))[0] != 0
    status, found = run("embed-status", store)
    assert (status, found["model"], found["waiting"]) == (0, None, 0)
    with Trunkline(plane.base_url, plane.key) as client:
        (screw,) = client.memory_stores.search(store, "screw", limit=1)
        assert screw.text == "manual > Kettle\n\nTurn the grey screw."
        assert client.memory_stores.ingest(store, turns=[{"text": "One more."}]).added == 1

    async def also() -> None:
        async with AsyncTrunkline(plane.base_url, plane.key) as client:
            assert (await client.memory_stores.ingest(store, turns=[{"text": "A purple umbrella."}])).added == 1
            (umbrella,) = await client.memory_stores.search(store, "umbrella", limit=1)
            assert umbrella.text == "A purple umbrella."
            assert (await client.memory_stores.embeddings(store)).waiting == 0

    asyncio.run(also())
