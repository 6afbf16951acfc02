"""Measure recall: each conversation of a set a store, each turn a passage, each question a search.

It goes through the control plane's API, on a real Postgres, without an LLM. Beside the API's latency stands that of the
search function itself, which is what the gateway waits for in a model call.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Final
from uuid import NAMESPACE_URL, UUID, uuid5

import httpx
from psycopg import AsyncConnection
from psycopg.rows import dict_row

from trunkline.api.app import ControlSettings, serve
from trunkline.api.deps import Embedding
from trunkline.benchmarks.recall_measures import Found, means, measures, percentiles
from trunkline.benchmarks.recall_set import Conversation, RecallSet
from trunkline.domain import ids
from trunkline.domain.keys import digest
from trunkline.errors import SetupError
from trunkline.memory import embedding
from trunkline.memory.embedders import Embedder
from trunkline.memory.embedders.queries import QueryVector, QueryVectors
from trunkline.memory.rerank import Rerank
from trunkline.memory.rerankers import Reranker
from trunkline.store import embedding as stored_embedding
from trunkline.store import keys, passages
from trunkline.store.pool import Database, open_database

TENANT: Final = "recall-benchmark"
BATCH: Final = 500
"""Turns in one request."""
QUERY_TIMEOUT_S: Final = 60.0
RERANK_TIMEOUT_S: Final = 600.0
DEPTH: Final = 100
"""Passages asked for: enough for every measure."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """A conversation in its store; `turns` maps passages to what they were made of."""

    conversation: Conversation
    store_id: str
    turns: dict[str, Found]


async def run(
    recall_set: RecallSet,
    owner_url: str,
    control_url: str,
    tell: Callable[[str], None],
    *,
    embedder: Embedder | None = None,
    reranker: Reranker | None = None,
) -> dict[str, Any]:
    """Return the measures, by kind of search: `lexical`, and `hybrid` where there is an embedder.

    Where there is a reranker, also `reranked`: the last of these, with its hundred best passages in another order.

    The database must have been migrated and must be of no other use: what is stored is deleted again, but an embedder
    is the whole database's.
    """
    async with await AsyncConnection.connect(owner_url, row_factory=dict_row) as connection:
        key = await keys.bootstrap(connection, TENANT, key_name="benchmark")
    nothing = QueryVectors(None, 0)
    async with open_database(control_url) as database, _served(control_url, key, nothing) as http:
        async with database.transaction() as connection:
            principal = await keys.authenticate(connection, digest(key))
        if principal is None:
            raise SetupError("The benchmark's key was revoked while it began; start again.")
        kept: list[_Kept] = []
        try:
            await embedding.configure(database, None if embedder is None else embedder.model)
            started = time.perf_counter()
            for conversation in recall_set.conversations:
                kept.append(await _keep(http, conversation))  # noqa: PERF401 (what is kept is deleted, also after a failure)
            turns = sum(len(conversation.turns) for conversation in recall_set.conversations)
            rate = turns / (time.perf_counter() - started)
            tell(f"kept {turns} turns, {rate:.0f} a second")
            await _fold(database)
            ingested = {"turns": turns, "ingest_turns_per_second": round(rate)}
            measured = {"lexical": await _ask_all(http, database, principal.tenant_id, kept, nothing) | ingested}
            if embedder is not None:
                tell("embedding")
                while await embedding.embed_batch(database, embedder, BATCH):
                    pass
                queries = QueryVectors(embedder, QUERY_TIMEOUT_S)
                async with _served(control_url, key, queries) as hybrid:
                    measured["hybrid"] = await _ask_all(hybrid, database, principal.tenant_id, kept, queries) | ingested
            if reranker is not None:
                tell("reranking")
                queries = QueryVectors(embedder, QUERY_TIMEOUT_S)
                rerank = Rerank(reranker, DEPTH, RERANK_TIMEOUT_S)
                async with _served(control_url, key, queries, rerank) as best:
                    asked = await _ask_all(best, database, principal.tenant_id, kept, queries, rerank=True)
                measured["reranked"] = asked | ingested
            return measured
        finally:
            for one in kept:
                await http.delete(f"/v1/memory_stores/{one.store_id}")
            await http.delete(f"/v1/keys/{ids.encode('key', principal.key_id)}")


@asynccontextmanager
async def _served(
    control_url: str, key: str, queries: QueryVectors, rerank: Rerank | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    """Run the control plane on a port of its own, for as long as the block lasts."""
    stop, port = asyncio.Event(), asyncio.get_running_loop().create_future()

    @asynccontextmanager
    async def opened(_database: Database) -> AsyncIterator[Embedding]:
        yield Embedding(queries)

    serving = asyncio.create_task(
        serve(
            ControlSettings(control_url),
            open_embedding=opened,
            open_rerank=None if rerank is None else lambda: nullcontext(rerank),
            stop=stop,
            on_listening=port.set_result,
        )
    )
    try:
        await asyncio.wait((serving, port), return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port.result()}",
            headers={"x-api-key": key},
            timeout=RERANK_TIMEOUT_S,
            trust_env=False,
        ) as http:
            yield http
    finally:
        stop.set()
        await serving


async def _keep(http: httpx.AsyncClient, conversation: Conversation) -> _Kept:
    name = f"{TENANT}: {conversation.id}"[:255]
    store_id = (await _post(http, "/v1/memory_stores", {"name": name}))["id"]
    turns: dict[str, Found] = {}
    for start in range(0, len(conversation.turns), BATCH):
        some = conversation.turns[start : start + BATCH]
        body = [
            {"text": turn.passage, "session_id": ids.encode("sesn", uuid5(NAMESPACE_URL, f"{store_id} {turn.session}"))}
            for turn in some
        ]
        made = await _post(http, f"/v1/memory_stores/{store_id}/passages", {"passages": body})
        turns |= {made_id: Found(turn.id, turn.session, 0) for made_id, turn in zip(made["ids"], some, strict=True)}
    return _Kept(conversation, store_id, turns)


async def _fold(database: Database) -> None:
    """Do the worker's part, so that searches are measured as they are a few seconds later."""
    folded = 1
    while folded:
        async with database.transaction() as connection:
            folded = await passages.fold_tail(connection)


async def _ask_all(
    http: httpx.AsyncClient,
    database: Database,
    tenant_id: UUID,
    kept: list[_Kept],
    queries: QueryVectors,
    *,
    rerank: bool = False,
) -> dict[str, float]:
    found: list[dict[str, float]] = []
    over_http: list[float] = []
    in_sql: list[float] = []
    for one in kept:
        sessions = {turn.id: turn.session for turn in one.conversation.turns}
        for question in one.conversation.questions:
            text = question.question[:2000]
            store_id = ids.decode("memstore", one.store_id)
            async with database.tenant(tenant_id) as connection:
                model = await stored_embedding.model_of_store(connection, tenant_id, store_id)
            vector = await queries.of(tenant_id, model, text)  # kept: neither latency has the embedder's in it
            started = time.perf_counter()
            body = {"query": text, "limit": DEPTH, "token_budget": 1_000_000, "rerank": rerank}
            answered = await _post(http, f"/v1/memory_stores/{one.store_id}/search", body)
            over_http.append(time.perf_counter() - started)
            if answered["rerank_reason"] is not None:
                raise SetupError(f"A search was not reranked: {answered['rerank_reason']}. The log above says more.")
            ranked = [
                Found(one.turns[passage["id"]].turn, one.turns[passage["id"]].session, passage["tokens"])
                for passage in answered["data"]
            ]
            found.append(measures(ranked, {turn: sessions[turn] for turn in question.evidence}))
            in_sql.append(await _search_time(database, tenant_id, store_id, text, vector))
    p50, p95 = percentiles(in_sql)
    api_p50, api_p95 = percentiles(over_http)
    return {
        "questions": len(found),
        **means(found),
        "search_ms_p50": p50,
        "search_ms_p95": p95,
        "api_ms_p50": api_p50,
        "api_ms_p95": api_p95,
    }


async def _search_time(database: Database, tenant_id: UUID, store_id: UUID, text: str, vector: QueryVector) -> float:
    """Return how long the search takes that an agent's turn waits for, in seconds."""
    async with database.tenant(tenant_id) as connection:
        started = time.perf_counter()
        await passages.recall(
            connection,
            tenant_id,
            store_id,
            text,
            limit=20,
            token_budget=2000,
            embedding=vector.vector,
            model=vector.model,
        )
        return time.perf_counter() - started


async def _post(http: httpx.AsyncClient, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = await http.post(path, json=body)
    answer.raise_for_status()
    got: dict[str, Any] = answer.json()
    return got
