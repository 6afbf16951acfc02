"""What model calls took and cost."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import AwareDatetime
from starlette.responses import JSONResponse

from trunkline.api.deps import Manager
from trunkline.domain import ids
from trunkline.domain.usage import UsageFilter
from trunkline.store import agents, keys, sessions, usage

router = APIRouter(prefix="/v1/usage", tags=["usage"])


@router.get("")
async def total(
    *,
    caller: Manager,
    key_id: str | None = None,
    agent_id: str | None = None,
    session_id: str | None = None,
    since: Annotated[AwareDatetime | None, Query(alias="from", description="inclusive")] = None,
    until: Annotated[AwareDatetime | None, Query(alias="to", description="exclusive")] = None,
) -> JSONResponse:
    """Add up the tenant's calls that match. `agent_id` may be a name; `cost_usd` is null where no price is known."""
    connection, principal = caller.connection, caller.principal
    key = session = agent = None
    if key_id is not None:
        key = (await keys.get(connection, principal, ids.decode("key", key_id))).id
    if agent_id is not None:
        agent = (await agents.get(connection, principal, agent_id)).id
    if session_id is not None:
        session = ids.decode("sesn", session_id)
        await sessions.head(connection, principal, session)
    wanted = UsageFilter(key, agent, session, since, until)
    return JSONResponse((await usage.total(connection, principal, wanted)).to_wire())
