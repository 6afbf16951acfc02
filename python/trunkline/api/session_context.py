"""The next prompt of a session."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response

from trunkline.api.deps import Manager, PartsDependency
from trunkline.domain import ids
from trunkline.errors import Unavailable
from trunkline.store import sessions

router = APIRouter(prefix="/v1/sessions", tags=["sessions"])


@router.get("/{session_id}/context")
async def retrieve(session_id: str, caller: Manager, parts: PartsDependency) -> Response:
    """Get the request that the session's next turn would send to its model. Nothing is sent, written or counted.

    The gateway adds what it would put in, `memory`, and names the provider, `upstream`; whoever asks the control plane
    itself finds null there, and the `request` as a worker hands it to the gateway.
    """
    principal = caller.principal
    session = await sessions.get(caller.connection, principal, ids.decode("sesn", session_id))
    principal.require("memory")
    if principal.user_id not in (None, session.user_id):
        raise sessions.not_found(session.id)
    principal.require_all_stores("see prompts, which hold all that the agent remembers")
    if parts.next_prompt is None:
        raise Unavailable("This control plane was started without the runtime, which writes prompts.")
    shown = await parts.next_prompt(caller.connection, principal.tenant_id, session.id)
    return Response(shown, media_type="application/json")
