"""What is stored of a model call's bodies."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from trunkline.api.deps import Manager
from trunkline.api.idempotency import idempotent
from trunkline.domain import ids
from trunkline.domain.call_bodies import to_wire
from trunkline.domain.times import now
from trunkline.store import call_bodies

router = APIRouter(prefix="/v1/usage/{call_id}/body", tags=["usage"])


@router.get("")
async def retrieve(call_id: str, caller: Manager) -> JSONResponse:
    """Get the request and the response of a call; `call_id` is what the response had in `x-trunkline-call`.

    Both are `{text, bytes, truncated}`, or `base64` for what is no text; `bytes` is the length of the whole.
    """
    found = await call_bodies.get(caller.connection, caller.principal, ids.decode("call", call_id), now())
    return JSONResponse(to_wire(found))


@router.post("/redact")
@idempotent("request", "response")
async def redact(call_id: str, caller: Manager) -> JSONResponse:
    """Empty both for good, and keep when that was and by which key."""
    redacted = await call_bodies.redact(caller.connection, caller.principal, ids.decode("call", call_id), now())
    return JSONResponse(to_wire(redacted))


@router.delete("", status_code=204)
async def delete(call_id: str, caller: Manager) -> Response:
    """Delete both; what the call took and cost stays in the usage."""
    await call_bodies.delete(caller.connection, caller.principal, ids.decode("call", call_id))
    return Response(status_code=204)
