"""Erasing what is kept of a user, of a session or in a store, for good. Trunkline's addition to the wire."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import AwareDatetime, BaseModel, ConfigDict, model_validator
from starlette.responses import JSONResponse

from trunkline.api import paging
from trunkline.api.deps import Manager
from trunkline.api.idempotency import idempotent
from trunkline.api.memory_caller import UserId, named
from trunkline.domain import ids
from trunkline.domain.times import now, to_wire
from trunkline.errors import InvalidRequest
from trunkline.memory.paths import check_prefix
from trunkline.store import erasures, memory_stores
from trunkline.store.erasures import Erasure, StorePart

router = APIRouter(prefix="/v1", tags=["erasure"])


class Erase(BaseModel):
    """Whose data is to go: a user's, or one session's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user_id: UserId | None = None
    session_id: str | None = None

    @model_validator(mode="after")
    def _names_one(self) -> Erase:
        if (self.user_id is None) == (self.session_id is None):
            raise ValueError("give either user_id or session_id")
        return self


class EraseFromStore(BaseModel):
    """What of a store is to go. All that is given has to hold; `everything` stands alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path_prefix: str | None = None
    session_id: str | None = None
    since: AwareDatetime | None = None
    before: AwareDatetime | None = None
    everything: bool = False

    @model_validator(mode="after")
    def _says_what(self) -> EraseFromStore:
        parts = (self.path_prefix, self.session_id, self.since, self.before)
        if self.everything == any(part is not None for part in parts):
            raise ValueError("give path_prefix, session_id, since or before; or everything: true, alone")
        if self.path_prefix is not None and self.session_id is not None:
            raise ValueError("path_prefix is of memories, session_id of passages: give one of them")
        return self


@router.post("/memory_stores/{store_id}/erase")
@idempotent()
async def erase_from_store(store_id: str, given: EraseFromStore, caller: Manager) -> JSONResponse:
    """Erase of a store what is below a path, was said in a session or a time, or everything; it cannot be undone.

    With `path_prefix` (as in listing memories; a single memory is `/a/b/` too) memories go that are or ever were below
    it, with every version; `since` and `before` then say when they were last written. Without it passages go, those of
    `session_id`, and said from `since` on and before `before`. `everything` is all memories, versions and passages.
    Archived stores allow it. Needs the scopes `manage` and `memory`.
    """
    caller.principal.require("memory")
    part = StorePart(
        path_prefix=None if given.path_prefix is None else check_prefix(given.path_prefix),
        session_id=None if given.session_id is None else ids.decode("sesn", given.session_id),
        since=given.since,
        before=given.before,
        everything=given.everything,
    )
    found = ids.decode("memstore", store_id)
    await memory_stores.lock(caller.connection, caller.principal, found)
    return JSONResponse(
        _to_wire(await erasures.erase_from_store(caller.connection, caller.principal, found, part, now()))
    )


@router.post("/erase")
@idempotent()
async def erase(given: Erase, caller: Manager) -> JSONResponse:
    """Erase what is kept of a user, or of a session with its forks, all of it or nothing. It cannot be undone.

    Of both go their sessions with all events, the memory that is theirs with its versions, passages with what searches
    and embeddings have of them, stored bodies and kept answers of their calls. Usage stays and loses the user's id.
    `erased` counts what went, by kind. Needs the scopes `manage` and `memory`.
    """
    caller.principal.require("memory")
    caller.principal.require_all_stores("erase what is kept of somebody")
    whose = named(given.user_id, given.session_id)
    return JSONResponse(_to_wire(await erasures.erase(caller.connection, caller.principal, whose, now())))


@router.get("/erasures")
async def list_erasures(
    caller: Manager,
    *,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    page: str | None = None,
    user_id: UserId | None = None,
    session_id: str | None = None,
    memory_store_id: str | None = None,
) -> JSONResponse:
    """List what was erased, when and by which key, newest first. Whose it was is told by asking for them alone."""
    if sum(each is not None for each in (user_id, session_id, memory_store_id)) > 1:
        raise InvalidRequest("Give one of user_id, session_id and memory_store_id.", param="session_id")
    store_id = None if memory_store_id is None else ids.decode("memstore", memory_store_id)
    whose = named(user_id, session_id)
    after = paging.read_time(page)
    found = await erasures.page(caller.connection, caller.principal, whose, after, limit + 1, store_id=store_id)
    return JSONResponse(paging.page(found, limit, _to_wire, lambda one: paging.at_time(one.erased_at, one.id)))


def _to_wire(erasure: Erasure) -> dict[str, Any]:
    return {
        "id": str(erasure.id),
        "type": "erasure",
        "kind": erasure.kind,
        "agent_id": None if erasure.agent_id is None else ids.encode("agent", erasure.agent_id),
        "key_id": ids.encode("key", erasure.key_id),
        "erased": dict(erasure.erased),
        "erased_at": to_wire(erasure.erased_at),
    }
