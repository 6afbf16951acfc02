"""Memory tools that a model called, carried out for the gateway."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict
from starlette.responses import JSONResponse

from trunkline.api.deps import PartsDependency, PrincipalDependency
from trunkline.api.memory_caller import UserId, subject
from trunkline.api.memory_calls import carry_out_call
from trunkline.domain import ids

router = APIRouter(prefix="/v1/agents/{agent}/memory_tools", tags=["blocks"])


class ToolCall(BaseModel):
    """A call of a memory tool. The session and the event are taken as given: they may not be in the log yet."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    input: Any = None
    user_id: UserId | None = None
    session_id: str | None = None
    parent_session_id: str | None = None
    """The session that this one parts from, where it does with the turn under way."""
    event_id: str | None = None


@router.post("")
async def call(agent: str, given: ToolCall, principal: PrincipalDependency, parts: PartsDependency) -> JSONResponse:
    """Carry out a memory tool and return `{"content", "is_error"}` for the model.

    What the model did wrong is 200 with `is_error`: it can read why, and try again. `x-trunkline-recall` says how
    `memory_search` searched: `hybrid`, or by words alone, and why.
    """
    principal.require("inference")
    result, by = await carry_out_call(
        parts,
        principal,
        agent,
        given.name,
        {} if given.input is None else given.input,
        subject=subject(principal, given.user_id, given.session_id),
        event_id=None if given.event_id is None else ids.decode("sevt", given.event_id),
        parent=None if given.parent_session_id is None else ids.decode("sesn", given.parent_session_id),
    )
    headers = None if by is None else {"x-trunkline-recall": by.header}
    return JSONResponse({"content": result.content, "is_error": result.is_error}, headers=headers)
