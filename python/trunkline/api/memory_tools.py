"""Memory tools that a model called, carried out for the gateway."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict
from starlette.responses import JSONResponse

from trunkline.api.memory_caller import InferenceCaller, UserId, subject
from trunkline.domain import ids
from trunkline.memory.tools import carry_out
from trunkline.store.blocks import agent_memory

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
async def call(agent: str, given: ToolCall, caller: InferenceCaller) -> JSONResponse:
    """Carry out a memory tool and return `{"content", "is_error"}` for the model.

    What the model did wrong is 200 with `is_error`: it can read why, and try again.
    """
    memory = await agent_memory(caller.connection, caller.principal, agent)
    result = await carry_out(
        caller.connection,
        caller.principal,
        memory,
        given.name,
        {} if given.input is None else given.input,
        subject=subject(caller.principal, given.user_id, given.session_id),
        event_id=None if given.event_id is None else ids.decode("sevt", given.event_id),
        parent=None if given.parent_session_id is None else ids.decode("sesn", given.parent_session_id),
    )
    return JSONResponse({"content": result.content, "is_error": result.is_error})
