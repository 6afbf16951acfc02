"""Webhooks: who is told of what happens to sessions. A webhook's secret is shown once, when it is made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse

from trunkline.api import paging
from trunkline.api.deps import Caller, Manager, PartsDependency
from trunkline.api.idempotency import idempotent, once
from trunkline.domain import ids
from trunkline.domain.times import now, to_wire
from trunkline.domain.webhooks import (
    Delivery,
    SecretRotation,
    Webhook,
    WebhookRequest,
    WebhookUpdate,
    new_secret,
    rotated,
    sealed_for,
)
from trunkline.errors import Conflict
from trunkline.store import webhooks

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])


@router.post("")
async def create(request: Request, given: WebhookRequest, caller: Manager, parts: PartsDependency) -> JSONResponse:
    """Have a URL told of what happens to sessions; its signing secret is in this answer and nowhere else.

    A key for one agent makes webhooks for that agent's sessions.
    """
    principal = caller.principal

    async def act() -> dict[str, Any]:
        at, secret = now(), new_secret()
        made = Webhook(
            ids.new(), principal.agent_id, given.url, given.description, given.events, "enabled", None, 0, at, at
        )
        sealed = parts.sealing.seal({"secret": secret}, *sealed_for(principal.tenant_id, made.id))
        await webhooks.create(caller.connection, principal.tenant_id, made, sealed)
        return {**made.to_wire(), "secret": secret}

    return await _shown_once(request, caller, act)


@router.get("")
async def list_webhooks(
    caller: Manager, limit: Annotated[int, Query(ge=1, le=100)] = 20, page: str | None = None
) -> JSONResponse:
    """List webhooks, newest first."""
    found = await webhooks.page(caller.connection, caller.principal, paging.read_time(page), limit + 1)
    return JSONResponse(paging.page(found, limit, Webhook.to_wire, lambda one: paging.at_time(one.created_at, one.id)))


@router.get("/{webhook_id}")
async def retrieve(webhook_id: str, caller: Manager) -> JSONResponse:
    """Get a webhook, without its secret."""
    found = await webhooks.get(caller.connection, caller.principal, ids.decode("whk", webhook_id))
    return JSONResponse(found.to_wire())


@router.post("/{webhook_id}")
@idempotent()
async def update(webhook_id: str, given: WebhookUpdate, caller: Manager) -> JSONResponse:
    """Change a webhook. One that was paused because it did not answer is told again once its `status` is `enabled`.

    What waited for it then is told, what happened meanwhile is not. Null in `events` stands for all.
    """
    before = await webhooks.get(caller.connection, caller.principal, ids.decode("whk", webhook_id))
    asked = {
        name: getattr(given, name)
        for name in given.model_fields_set
        if name == "events" or getattr(given, name) is not None
    }
    after = replace(before, **asked, updated_at=now())
    await webhooks.update(caller.connection, caller.principal.tenant_id, after)
    return JSONResponse((await webhooks.get(caller.connection, caller.principal, after.id)).to_wire())


router.patch("/{webhook_id}", name="patch", summary="Update", description=update.__doc__ or "")(update)


@router.post("/{webhook_id}/rotate_secret")
async def rotate_secret(
    *,
    request: Request,
    webhook_id: str,
    given: SecretRotation | None = None,
    caller: Manager,
    parts: PartsDependency,
) -> JSONResponse:
    """Give a webhook another secret, which is in this answer and nowhere else.

    For `overlap_seconds`, a day unless told otherwise, what is sent is signed with the one before as well.
    """
    principal = caller.principal

    async def act() -> dict[str, Any]:
        found, at, secret = ids.decode("whk", webhook_id), now(), new_secret()
        owner = sealed_for(principal.tenant_id, found)
        kept = parts.sealing.open(await webhooks.lock_secret(caller.connection, principal, found), *owner)
        until = at + timedelta(seconds=(given or SecretRotation()).overlap_seconds)
        sealed = parts.sealing.seal(rotated(kept, secret, until), *owner)
        await webhooks.update_secret(caller.connection, principal.tenant_id, found, sealed, at)
        webhook = await webhooks.get(caller.connection, principal, found)
        return {**webhook.to_wire(), "secret": secret, "previous_secret_expires_at": to_wire(until)}

    return await _shown_once(request, caller, act)


@router.delete("/{webhook_id}")
async def delete(webhook_id: str, caller: Manager) -> JSONResponse:
    """Delete a webhook, and what is left to tell it."""
    found = ids.decode("whk", webhook_id)
    await webhooks.delete(caller.connection, caller.principal, found)
    return JSONResponse({"id": ids.encode("whk", found), "type": "webhook_deleted"})


@router.get("/{webhook_id}/deliveries")
async def list_deliveries(
    webhook_id: str, caller: Manager, limit: Annotated[int, Query(ge=1, le=100)] = 20, page: str | None = None
) -> JSONResponse:
    """List what a webhook was told in the last 30 days, or is to be told, newest first, with how that went."""
    webhook = await webhooks.get(caller.connection, caller.principal, ids.decode("whk", webhook_id))
    found = await webhooks.deliveries(
        caller.connection, caller.principal.tenant_id, webhook.id, paging.read_time(page), limit + 1
    )
    return JSONResponse(paging.page(found, limit, Delivery.to_wire, lambda one: paging.at_time(one.created_at, one.id)))


async def _shown_once(request: Request, caller: Caller, act: Callable[[], Awaitable[dict[str, Any]]]) -> JSONResponse:
    """Answer with a webhook and its secret. Raises Conflict where that was done before: the secret is not kept."""
    answer = await once(request, caller, act, keep=lambda answer: answer | {"secret": None})
    if answer["secret"] is None:
        raise Conflict(
            f"This request was carried out for the webhook {answer['id']} before, and its secret is shown only once. "
            f"If it was lost, POST /v1/webhooks/{answer['id']}/rotate_secret with a new idempotency key gives another.",
            param="idempotency-key",
            code="shown_once",
            details={"webhook_id": answer["id"]},
        )
    return JSONResponse(answer)
