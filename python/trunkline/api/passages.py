"""Passages of a memory store: keeping texts for search, and searching them. Trunkline's additions to the wire."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Request
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints
from starlette.responses import JSONResponse

from trunkline.api.deps import Parts, PartsDependency, PrincipalDependency
from trunkline.api.idempotency import once
from trunkline.api.memory_caller import MemoryCaller, no_controls, no_nul
from trunkline.domain import ids
from trunkline.domain.memory import Passage, PassageFilter
from trunkline.domain.times import now, to_wire
from trunkline.errors import InvalidRequest
from trunkline.memory.recall import MAX_PASSAGES, WORDS
from trunkline.memory.rerank import ALL_TOKENS, Rerank, Reranked, within
from trunkline.store import embedding, ingest, memory_stores, passages, redaction
from trunkline.store.memory_stores import refuse_archived

router = APIRouter(prefix="/v1/memory_stores/{store_id}", tags=["memory stores"])

MAX_AT_ONCE: Final = 1000
MAX_TEXT: Final = 65_536
"""Characters of a passage; longer texts are documents, to be split."""

Label = Annotated[str, StringConstraints(min_length=1, max_length=64), AfterValidator(no_controls)]
Value = Annotated[str, StringConstraints(max_length=512), AfterValidator(no_nul)]
Tags = Annotated[list[Label], Field(max_length=16)]
Metadata = Annotated[dict[Label, Value], Field(max_length=16)]


class NewPassage(BaseModel):
    """A text to keep. What was said in one session is given in its order: the texts before and after count too."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEXT), AfterValidator(no_nul)]
    role: Label = "user"
    session_id: str | None = None
    created_at: AwareDatetime | None = None
    tags: Tags = []
    metadata: Metadata = {}


class NewPassages(BaseModel):
    """Texts to keep, all of them or none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    passages: Annotated[list[NewPassage], Field(min_length=1, max_length=MAX_AT_ONCE)]


class Search(BaseModel):
    """What to look for, how much of it to return, and which passages are wanted at all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    query: Annotated[str, StringConstraints(min_length=1, max_length=2000), AfterValidator(no_nul)]
    limit: Annotated[int, Field(ge=1, le=MAX_PASSAGES)] = 10
    token_budget: Annotated[int, Field(ge=1, le=1_000_000)] = 2000
    created_from: Annotated[AwareDatetime | None, Field(alias="created_at[gte]")] = None
    created_to: Annotated[AwareDatetime | None, Field(alias="created_at[lt]")] = None
    roles: list[Label] | None = None
    session_ids: Annotated[list[str] | None, Field(max_length=100)] = None
    tags: Tags | None = None
    metadata: Metadata | None = None
    half_life_days: Annotated[float | None, Field(gt=0, le=36_500)] = None
    """Prefer what is newer: half of a passage's score fades with its age, by half in so many days."""
    rerank: bool = False
    """Have the configured reranker read what was found, and return what it takes for the best."""


@router.post("/passages")
async def keep(request: Request, store_id: str, given: NewPassages, caller: MemoryCaller) -> JSONResponse:
    """Keep texts; they are found as soon as this has answered. Returns their ids, in order."""

    async def act() -> dict[str, Any]:
        store = await memory_stores.lock(caller.connection, caller.principal, ids.decode("memstore", store_id))
        refuse_archived(store.id, store.archived_at)
        made = [_passage(one) for one in given.passages]
        sessions = [str(passage.session_id) for passage in made if passage.session_id is not None]
        await passages.lock_sessions(caller.connection, store.id, sessions)
        tenant_id = caller.principal.tenant_id
        redactor = await redaction.of(caller.connection, tenant_id, store.id)
        await ingest.add(caller.connection, tenant_id, store.id, made, now(), redactor=redactor)
        return {"ids": [ids.encode("psg", passage.id) for passage in made]}

    return JSONResponse(await once(request, caller, act))


@router.post("/search")
async def search(store_id: str, given: Search, caller: PrincipalDependency, parts: PartsDependency) -> JSONResponse:
    """Find the passages that answer a text, best first, within `limit` and `token_budget`.

    `mode` is `hybrid` when the text's embedding was searched too; `lexical` when the words alone were, for `reason`.
    `reranked` says whether the order is the reranker's; where it was asked for and is not, `rerank_reason` says why.
    """
    caller.require("memory")
    found_id = ids.decode("memstore", store_id)
    async with parts.database.tenant(caller.tenant_id) as connection:
        store = await memory_stores.get(connection, caller, found_id)
        model = await embedding.model_of_store(connection, caller.tenant_id, store.id)
    return await found_in(parts, caller.tenant_id, store.id, model, given)


async def found_in(
    parts: Parts, tenant_id: UUID, store_id: UUID | None, model: str | None, given: Search
) -> JSONResponse:
    """Search a store by a text and, where `model` is that of its embeddings, its vector; no store has nothing.

    Raises InvalidRequest where a reranker is asked for and none is configured.
    """
    rerank = _reranker(parts) if given.rerank else None
    half_life = None if given.half_life_days is None else timedelta(days=given.half_life_days)
    only = PassageFilter(
        since=given.created_from,
        until=given.created_to,
        roles=given.roles,
        sessions=None if given.session_ids is None else [ids.decode("sesn", one) for one in given.session_ids],
        tags=given.tags,
        metadata=given.metadata,
    )
    # No connection is held meanwhile.
    query = WORDS if store_id is None else await parts.embedding.queries.of(tenant_id, model, given.query)
    found: list[Passage] = []
    if store_id is not None:
        async with parts.database.tenant(tenant_id) as connection:
            found = await passages.recall(
                connection,
                tenant_id,
                store_id,
                given.query,
                limit=given.limit if rerank is None else max(given.limit, rerank.candidates),
                token_budget=given.token_budget if rerank is None else ALL_TOKENS,
                embedding=query.vector,
                model=query.model,
                only=only,
                half_life=half_life,
            )
    reranked: Reranked | None = None
    if rerank is not None:
        reranked = await rerank.order(given.query, found, at=now(), half_life=half_life)
        found = within(reranked.passages, given.limit, given.token_budget)
    return JSONResponse(
        {
            "data": [_to_wire(passage) for passage in found],
            "tokens": sum(passage.tokens for passage in found),
            "mode": "lexical" if query.vector is None else "hybrid",
            "reason": query.reason,
            "reranked": reranked is not None and reranked.reason is None,
            "rerank_reason": None if reranked is None else reranked.reason,
        },
        headers={"x-trunkline-recall": query.header + ("" if reranked is None else reranked.header)},
    )


def _reranker(parts: Parts) -> Rerank:
    if parts.rerank is None:
        raise InvalidRequest(
            "No reranker is configured here: leave out `rerank`, or set `memory.reranker` in trunkline.yaml.",
            param="rerank",
        )
    return parts.rerank


def _passage(given: NewPassage) -> ingest.NewPassage:
    return ingest.NewPassage(
        id=ids.new(),
        session_id=None if given.session_id is None else ids.decode("sesn", given.session_id),
        role=given.role,
        content=given.text,
        created_at=given.created_at,
        tags=given.tags,
        metadata=given.metadata,
    )


def _to_wire(passage: Passage) -> dict[str, Any]:
    return {
        "id": ids.encode("psg", passage.id),
        "type": "passage",
        "session_id": None if passage.session_id is None else ids.encode("sesn", passage.session_id),
        "role": passage.role,
        "text": passage.content,
        "tokens": passage.tokens,
        "tags": list(passage.tags),
        "metadata": dict(passage.metadata),
        "created_at": to_wire(passage.created_at),
        "score": passage.score,
    }
