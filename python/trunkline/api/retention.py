"""For how long a tenant keeps sessions and their events; an agent may say less for its own (`memory.retention`)."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict
from starlette.responses import JSONResponse

from trunkline.api.deps import Caller, Manager
from trunkline.api.idempotency import idempotent
from trunkline.domain.times import now
from trunkline.errors import Forbidden
from trunkline.memory.rules import parse_retention
from trunkline.store import retention

router = APIRouter(prefix="/v1/retention", tags=["retention"])


class RetentionRequest(BaseModel):
    """Times such as `90d`; null, or left out: for ever."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sessions: Any = None
    events: Any = None


@router.get("")
async def retrieve(caller: Manager) -> JSONResponse:
    """Tell for how long sessions and events are kept."""
    return JSONResponse((await retention.read(caller.connection, caller.principal.tenant_id)).to_wire())


@router.post("")
@idempotent()
async def put(given: RetentionRequest, caller: Manager) -> JSONResponse:
    """Say for how long: sessions that were idle for so long go as a whole, of others the events of that age."""
    _may_set(caller)
    wanted = parse_retention(given.model_dump(), "retention")
    await retention.write(caller.connection, caller.principal.tenant_id, wanted, now())
    return JSONResponse(wanted.to_wire())


def _may_set(caller: Caller) -> None:
    if caller.principal.agent_id is not None:
        raise Forbidden(
            "The key may act for one agent only, and retention is the tenant's; use a key of no agent, or set "
            "`memory.retention` of the agent.",
            code="bound_key",
        )
