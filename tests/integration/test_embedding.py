"""Embedding in the background: nothing is lost, nothing is doubled, and what serves goes on serving."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
from psycopg.rows import dict_row

from support.postgres import DatabaseUrls
from trunkline.domain import ids
from trunkline.memory import embedding
from trunkline.memory.embedders import EmbeddingFailed, Vector
from trunkline.memory.embedders.gateway import GatewayEmbedder
from trunkline.store import embedding as stored
from trunkline.store.pool import Database, open_database

TEXTS = ("the red kettle is broken", "a blue lamp for the desk", "tea at four o'clock", "the lamp is broken too")


class Keys:
    """The model server takes any key."""

    async def key(self, tenant_id: UUID) -> str:
        return f"sk-{tenant_id}"

    def forget(self, tenant_id: UUID, text: str) -> None:
        raise AssertionError((tenant_id, text))


class Rows:
    """The database as its owner sees it, and what a tenant's client would have written."""

    def __init__(self, admin_url: str) -> None:
        self._connection = psycopg.connect(admin_url, row_factory=dict_row, autocommit=True)

    def close(self) -> None:
        self._connection.close()

    def __call__(self, query: str, *values: Any) -> list[dict[str, Any]]:
        cursor = self._connection.execute(query, values)
        return cursor.fetchall() if cursor.description else []

    def tenant(self, name: str) -> UUID:
        tenant_id = uuid4()
        self("insert into trunkline.tenants (id, name, created_at) values (%s, %s, now())", tenant_id, name)
        return tenant_id

    def store(self, tenant_id: UUID, texts: Sequence[str] = ()) -> UUID:
        store_id = uuid4()
        self(
            "insert into trunkline.memory_stores (tenant_id, id, name, scope, created_at, updated_at) "
            "values (%s, %s, 's', 'org', now(), now())",
            tenant_id,
            store_id,
        )
        self.write(tenant_id, store_id, texts)
        return store_id

    def write(self, tenant_id: UUID, store_id: UUID, texts: Sequence[str]) -> None:
        for text in texts:
            self(
                "insert into trunkline.passages (tenant_id, store_id, id, role, content, tokens, created_at) "
                "values (%s, %s, %s, 'user', %s, 5, now())",
                tenant_id,
                store_id,
                ids.new(),
                text,
            )

    def vectors(self, model: str = "e") -> int:
        """How many passages have embeddings by a model; none may have two."""
        found = self("select place from trunkline.passage_embeddings where model = %s", model)
        assert len({row["place"] for row in found}) == len(found)
        return len(found)

    def waiting(self) -> list[dict[str, Any]]:
        return self("select fault, failures, message from trunkline.embedding_queue")

    def model(self, store_id: UUID) -> str | None:
        (row,) = self("select embedding_model from trunkline.memory_stores where id = %s", store_id)
        found: str | None = row["embedding_model"]
        return found

    def hurry(self) -> None:
        """Let the time pass for which what waits is left alone."""
        self("update trunkline.embedding_queue set ready_at = now()")

    def nearest(self, tenant_id: UUID, store_id: UUID, vector: Sequence[float], limit: int = 3) -> Any:
        text = "[" + ",".join(map(str, vector)) + "]"
        return self(
            "select p.content, n.similarity from trunkline.nearest_passages(%s, %s, %s, %s::halfvec, %s) n "
            "join trunkline.passages p on p.tenant_id = %s and p.store_id = %s and p.place = n.place "
            "order by n.similarity desc",
            tenant_id,
            store_id,
            "e",
            text,
            limit,
            tenant_id,
            store_id,
        )


@pytest.fixture
def rows(database: DatabaseUrls) -> Iterator[Rows]:
    opened = Rows(database.admin_url)
    yield opened
    opened.close()


@pytest.fixture
async def pool(database: DatabaseUrls) -> AsyncIterator[Database]:
    async with open_database(database.control_url) as pool:
        yield pool


@contextlib.asynccontextmanager
async def asking(model_server: str, model: str = "e", dimension: int | None = None) -> AsyncIterator[GatewayEmbedder]:
    async with httpx.AsyncClient(base_url=model_server, timeout=20) as http:
        yield GatewayEmbedder(http, Keys(), model, dimension)


async def all_of_it(pool: Database, embedder: Any, batch: int = 3) -> None:
    """Embed until nothing is ready, and do what comes after."""
    while await embedding.embed_batch(pool, embedder, batch):
        pass
    while await embedding.keep_up(pool):
        while await embedding.embed_batch(pool, embedder, batch):
            pass


async def test_what_is_written_is_embedded_and_found_by_meaning(rows: Rows, pool: Database, model_server: str) -> None:
    tenant, other = rows.tenant("a"), rows.tenant("b")
    async with asking(model_server) as embedder:
        await embedding.configure(pool, "e")
        store, others = rows.store(tenant, TEXTS), rows.store(other, TEXTS[:2])
        rows.write(tenant, store, ["  \n "])
        assert len(rows.waiting()) == 6
        await all_of_it(pool, embedder)
        assert rows.waiting() == []
        assert rows.vectors() == 6
        (vector,) = await embedder.embed(tenant, ["broken kettle"])
    found = rows.nearest(tenant, store, vector)
    assert found[0]["content"] == TEXTS[0]
    assert found[0]["similarity"] > 0.5
    assert len(rows.nearest(other, others, vector)) == 2
    assert rows.nearest(other, store, vector) == []
    assert rows.nearest(tenant, others, vector) == []


async def test_what_was_written_before_there_was_an_embedder(rows: Rows, pool: Database, model_server: str) -> None:
    tenant = rows.tenant("a")
    stores = [rows.store(tenant, TEXTS) for _ in range(3)]
    assert rows.waiting() == []
    async with asking(model_server) as embedder:
        await embedding.configure(pool, "e")
        await all_of_it(pool, embedder)
    assert rows.vectors() == 12
    assert {rows.model(store) for store in stores} == {"e"}
    await embedding.configure(pool, None)
    rows.write(tenant, stores[0], ["and now there is none"])
    assert rows.waiting() == []


async def test_an_outage_is_waited_for(rows: Rows, pool: Database, model_server: str) -> None:
    tenant = rows.tenant("a")
    await embedding.configure(pool, "e")
    store = rows.store(tenant, TEXTS)
    async with asking("http://127.0.0.1:9") as nobody:
        for tries in range(1, 4):
            assert await embedding.embed_batch(pool, nobody, 10) == 4
            assert await embedding.embed_batch(pool, nobody, 10) == 0
            assert {row["failures"] for row in rows.waiting()} == {tries}
            assert {row["fault"] for row in rows.waiting()} == {"unavailable"}
            rows.hurry()
    async with asking(model_server, "e+error-503x1") as poorly:
        assert await embedding.embed_batch(pool, poorly, 10) == 4
        assert rows.vectors() == 0
    rows.hurry()
    async with asking(model_server) as embedder:
        await all_of_it(pool, embedder)
    assert (rows.vectors(), rows.waiting(), rows.model(store)) == (4, [], "e")


@pytest.mark.parametrize(
    ("asked", "fault"), [("e+nan", "not_finite"), ("e+missing", "wrong_count"), ("e+dimension-9", "wrong_dimension")]
)
async def test_an_embedder_that_is_broken_stores_nothing(
    rows: Rows, pool: Database, model_server: str, asked: str, fault: str
) -> None:
    tenant = rows.tenant("a")
    await embedding.configure(pool, asked)
    rows.store(tenant, TEXTS)
    async with asking(model_server, asked, dimension=384) as broken:
        assert await embedding.embed_batch(pool, broken, 10) == 4
    assert [row["fault"] for row in rows.waiting()] == [fault] * 4
    assert rows.vectors(asked) == 0
    (waits,) = rows("select min(ready_at) > now() + interval '30 s' as long from trunkline.embedding_queue")
    assert waits["long"]


class Made:
    """An embedder that does what a test wants."""

    model = "e"
    dimension = None

    def __init__(self, make: Callable[[Sequence[str]], list[Vector]]) -> None:
        self._make = make

    async def embed(self, tenant_id: UUID, texts: Sequence[str]) -> list[Vector]:
        assert tenant_id.int
        return self._make(texts)


def picky(texts: Sequence[str]) -> list[Vector]:
    """Take everything but one text."""
    if TEXTS[2] in texts:
        raise EmbeddingFailed("refused", "not this one")
    return [[1.0, 0.0] for _ in texts]


async def test_one_text_that_is_refused_keeps_no_other_back(rows: Rows, pool: Database) -> None:
    tenant = rows.tenant("a")
    await embedding.configure(pool, "e")
    store = rows.store(tenant, TEXTS)
    await all_of_it(pool, Made(picky), batch=10)
    assert rows.vectors() == 3
    assert rows.waiting() == [{"fault": "refused", "failures": 1, "message": "not this one"}]
    async with pool.tenant(tenant) as connection:
        (status,) = await stored.status(connection, tenant)
    assert (status.store_id, status.passages, status.embedded, status.failing) == (store, 4, 3, 1)
    assert status.message == "not this one"


async def test_a_model_whose_vectors_change_their_length_is_told(rows: Rows, pool: Database, model_server: str) -> None:
    tenant = rows.tenant("a")
    await embedding.configure(pool, "e")
    store = rows.store(tenant, TEXTS[:2])

    changed = Made(lambda texts: [[0.6, 0.8] for _ in texts])

    async with asking(model_server) as embedder:
        await all_of_it(pool, embedder)
        rows.write(tenant, store, TEXTS[2:])
        await all_of_it(pool, changed)
        assert rows.vectors() == 2
        assert [row["fault"] for row in rows.waiting()] == ["wrong_dimension"] * 2
        assert "2 numbers" in rows.waiting()[0]["message"]
        async with pool.tenant(tenant) as connection:
            assert await stored.embed_again(connection, tenant, store) == 4
        assert rows.model(store) is None
        await all_of_it(pool, changed)
    assert (rows.vectors(), rows.waiting()) == (4, [])
    assert len(rows.nearest(tenant, store, [1.0, 0.0], limit=9)) == 4


async def test_a_store_changes_its_model_while_the_old_one_serves(
    rows: Rows, pool: Database, model_server: str
) -> None:
    tenant = rows.tenant("a")
    await embedding.configure(pool, "e")
    store, empty = rows.store(tenant, TEXTS), rows.store(tenant)
    async with asking(model_server) as old, asking(model_server, "f") as new:
        await all_of_it(pool, old)
        await embedding.configure(pool, "f")
        rows.write(tenant, store, ["written while it changes"])
        # What is new is embedded before the survey has come by: the store is not switched for that.
        assert await embedding.embed_batch(pool, new, 10) == 1
        async with pool.transaction() as connection:
            assert await stored.switch(connection) == 0
        async with pool.transaction() as connection:
            await stored.survey(connection, 50)
        assert len(rows.waiting()) == 4
        assert await embedding.embed_batch(pool, new, 3) == 3
        await embedding.keep_up(pool)
        assert rows.model(store) == "e"
        (vector,) = await old.embed(tenant, ["broken kettle"])
        assert rows.nearest(tenant, store, vector)[0]["content"] == TEXTS[0]
        async with pool.tenant(tenant) as connection:
            (status,) = await stored.status(connection, tenant)
        assert (status.model, status.next_model, status.embedded, status.waiting) == ("e", "f", 4, 1)
        await all_of_it(pool, new)
    assert rows.model(store) == "f"
    assert (rows.vectors("f"), rows.vectors("e")) == (5, 0)
    assert rows("select 1 from trunkline.embedding_sets where model = 'e'") == []
    assert rows.model(empty) is None


async def test_what_is_written_anew_or_deleted_meanwhile(rows: Rows, pool: Database) -> None:
    tenant = rows.tenant("a")
    await embedding.configure(pool, "e")
    store = rows.store(tenant, TEXTS)

    def slow(texts: Sequence[str]) -> list[Vector]:
        rows("update trunkline.passages set content = 'changed' where content = %s", TEXTS[0])
        rows("delete from trunkline.passages where content = %s", TEXTS[1])
        return [[1.0, 0.0] for _ in texts]

    assert await embedding.embed_batch(pool, Made(slow), 10) == 4
    assert len(rows.waiting()) == 1
    assert rows.vectors() == 2
    await all_of_it(pool, Made(slow))
    assert (rows.vectors(), rows.waiting()) == (3, [])
    rows("delete from trunkline.memory_stores where id = %s", store)
    assert rows.vectors() == 0
    assert rows("select 1 from trunkline.embedding_sets") == []


async def test_a_batch_that_took_too_long_is_stored_once(rows: Rows, pool: Database) -> None:
    tenant = rows.tenant("a")
    await embedding.configure(pool, "e")
    rows.store(tenant, TEXTS)
    async with pool.transaction() as connection:
        first = await stored.claim(connection, 10, 60)
    rows.hurry()
    async with pool.transaction() as connection:
        second = await stored.claim(connection, 10, 60)
    assert len(first) == len(second) == 4
    for claimed in (first, second):
        async with pool.tenant(tenant) as connection:
            assert await stored.store(connection, tenant, "e", claimed, [[1.0, 0.0]] * 4, retry_seconds=1) == 0
    assert (rows.vectors(), rows.waiting()) == (4, [])
    assert rows("select passages from trunkline.embedding_sets") == [{"passages": 4}]


async def test_many_workers_share_the_work(rows: Rows, pool: Database, model_server: str) -> None:
    await embedding.configure(pool, "e")
    for name in ("a", "b", "c"):
        tenant = rows.tenant(name)
        for _ in range(2):
            rows.store(tenant, [f"{name} {number}" for number in range(20)])
    async with asking(model_server) as embedder:

        async def work() -> int:
            taken = 0
            while some := await embedding.embed_batch(pool, embedder, 7):
                taken += some
            return taken

        taken = await asyncio.gather(*(work() for _ in range(4)))
    rows.hurry()
    assert (rows.vectors(), rows.waiting()) == (120, [])
    assert sum(taken) == 120


async def test_a_big_store_gets_an_index_while_it_is_searched(rows: Rows, pool: Database) -> None:
    tenant = rows.tenant("a")
    await embedding.configure(pool, "e")
    store, small = rows.store(tenant), rows.store(tenant, TEXTS)
    rows(
        "insert into trunkline.passages (tenant_id, store_id, id, role, content, tokens, created_at) "
        "select %s, %s, gen_random_uuid(), 'user', 'text ' || n, 5, now() from generate_series(1, 1200) n",
        tenant,
        store,
    )

    def circle(texts: Sequence[str]) -> list[Vector]:
        numbers = [int(text.split()[-1]) if text.split()[-1].isdigit() else 0 for text in texts]
        return [[1.0, number / 100] for number in numbers]

    while await embedding.embed_batch(pool, Made(circle), 500):
        pass
    exact = rows.nearest(tenant, store, [1.0, 6.0], limit=10)
    seen = []
    while True:
        async with pool.transaction() as connection:
            more = await stored.shelve(connection, 1000, 500)
        found = rows.nearest(tenant, store, [1.0, 6.0], limit=10)
        seen.append([row["content"] for row in found])
        if not more:
            break
    assert len(seen) > 3
    assert all(set(found) == {row["content"] for row in exact} for found in seen)
    assert rows("select shelf, count(*) from trunkline.passage_embeddings group by 1 order by 1") == [
        {"shelf": 0, "count": 4},
        {"shelf": 1, "count": 1200},
    ]
    rows.write(tenant, store, ["text 600"])
    while await embedding.embed_batch(pool, Made(circle), 500):
        pass
    assert len(rows.nearest(tenant, small, [1.0, 0.0], limit=10)) == 4
    async with pool.tenant(tenant) as connection:
        indexed = {status.store_id: status.indexed for status in await stored.status(connection, tenant)}
        assert indexed == {store: True, small: False}
        assert await stored.embed_again(connection, tenant, store) == 1201
    assert rows("select shelf, count(*) from trunkline.passage_embeddings group by 1") == [{"shelf": 0, "count": 4}]


async def test_a_tenant_sees_only_its_own(rows: Rows, pool: Database) -> None:
    tenant, other = rows.tenant("a"), rows.tenant("b")
    await embedding.configure(pool, "e")
    rows.store(tenant, TEXTS)
    rows.store(other, TEXTS)
    await embedding.embed_batch(pool, Made(picky), 10)
    tables = ("embedding_queue", "embedding_sets", "passage_embeddings")
    for reader in (tenant, other):
        async with pool.tenant(reader) as connection:
            for table in tables:
                cursor = await connection.execute(f"select distinct tenant_id from trunkline.{table}".encode())
                assert {row["tenant_id"] for row in await cursor.fetchall()} <= {reader}
    async with pool.transaction() as connection:
        for table in tables:
            cursor = await connection.execute(f"select count(*) as count from trunkline.{table}".encode())
            assert await cursor.fetchone() == {"count": 0}
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await connection.execute(b"select * from trunkline.embedders")
