"""Erasing what is kept of a user or of a session, for good. Trunkline's addition to the wire."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, model_validator
from starlette.responses import JSONResponse

from trunkline.api import paging
from trunkline.api.deps import Manager
from trunkline.api.memory_caller import UserId, subject
from trunkline.domain import ids
from trunkline.domain.times import now, to_wire
from trunkline.errors import InvalidRequest
from trunkline.store import erasures
from trunkline.store.erasures import Erasure

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


@router.post("/erase")
async def erase(given: Erase, caller: Manager) -> JSONResponse:
    """Erase what is kept of a user, or of a session with its forks, all of it or nothing. It cannot be undone.

    Of both go their sessions with all events, the memory that is theirs with its versions, passages with what searches
    and embeddings have of them, stored bodies and kept answers of their calls. Usage stays and loses the user's id.
    `erased` counts what went, by kind. Needs the scopes `manage` and `memory`.
    """
    caller.principal.require("memory")
    whose = subject(given.user_id, given.session_id)
    return JSONResponse(_to_wire(await erasures.erase(caller.connection, caller.principal, whose, now())))


@router.get("/erasures")
async def list_erasures(
    caller: Manager,
    *,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    page: str | None = None,
    user_id: UserId | None = None,
    session_id: str | None = None,
) -> JSONResponse:
    """List what was erased, when and by which key, newest first. Whose it was is told by asking for them alone."""
    if user_id is not None and session_id is not None:
        raise InvalidRequest("Give user_id or session_id, not both.", param="session_id")
    whose = subject(user_id, session_id)
    found = await erasures.page(caller.connection, caller.principal, whose, paging.read_time(page), limit + 1)
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
