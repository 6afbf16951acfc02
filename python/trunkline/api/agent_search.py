"""Search in what was said by one user, or in one session, with an agent."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse

from trunkline.api.deps import PartsDependency, PrincipalDependency
from trunkline.api.memory_caller import UserId, subject
from trunkline.api.passages import Search, found_in
from trunkline.memory.recall import store_of_turns
from trunkline.store import embedding
from trunkline.store.blocks import agent_memory

router = APIRouter(prefix="/v1/agents/{agent}", tags=["blocks"])


class SubjectSearch(Search):
    """A search, and whose turns are meant; without a user, only the session's."""

    user_id: UserId | None = None
    session_id: str | None = None


@router.post("/memory_search")
async def search(agent: str, given: SubjectSearch, caller: PrincipalDependency, parts: PartsDependency) -> JSONResponse:
    """Find what was said that answers a text, best first, as `/v1/memory_stores/{id}/search` does in any store.

    Nothing is found where nothing was said yet.
    """
    caller.require("memory")
    who = subject(caller, given.user_id, given.session_id)
    async with parts.database.tenant(caller.tenant_id) as connection:
        memory = await agent_memory(connection, caller, agent)
        caller.require_memory("session" if who.user_id is None else "user", write=False)
        store_id = await store_of_turns(connection, caller.tenant_id, memory, who)
        model = None if store_id is None else await embedding.model_of_store(connection, caller.tenant_id, store_id)
    return await found_in(parts, caller.tenant_id, store_id, model, given)
