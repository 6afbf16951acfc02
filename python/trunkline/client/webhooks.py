from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import datetime
from typing import Any

from pydantic import Field

from trunkline.client.transport import AsyncTransport, Transport, segment
from trunkline.client.wire import Wire, given


class Webhook(Wire):
    """A URL that is told of what happens to sessions."""

    id: str
    url: str
    description: str = ""
    events: tuple[str, ...] | None = None
    """What it is told of; None: of all."""
    agent_id: str | None = None
    """Of this agent's sessions alone."""
    status: str
    """enabled, disabled or paused."""
    paused_reason: dict[str, Any] | None = None
    failures: int = 0
    created_at: datetime
    updated_at: datetime


class NewWebhook(Webhook):
    """A webhook just made; its secret is shown this once."""

    secret: str = Field(repr=False)
    """What signatures are checked with, as Standard Webhooks has it."""


class RotatedWebhook(NewWebhook):
    """A webhook with a new secret."""

    previous_secret_expires_at: datetime
    """Until then what comes is signed with the secret before, too."""


class Delivery(Wire):
    """One event that a webhook was told, or is to be told."""

    id: str
    event_id: str
    event_type: str
    session_id: str
    status: str
    attempts: int
    next_attempt_at: datetime | None = None
    response_status: int | None = None
    error: str | None = None
    created_at: datetime
    delivered_at: datetime | None = None


def _path(webhook_id: str) -> str:
    return f"/v1/webhooks/{segment(webhook_id)}"


class Webhooks:
    """`client.webhooks`: scope `manage`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, url: str, *, events: Sequence[str] | None = None, description: str | None = None) -> NewWebhook:
        """Have a URL told of what happens to sessions: of `events`, or of all. Raises InvalidRequest."""
        body = given(url=url, description=description, events=None if events is None else list(events))
        return NewWebhook.model_validate(self._transport.request("POST", "/v1/webhooks", body=body, once=True))

    def list(self) -> Iterator[Webhook]:
        """Yield them, newest first, page after page."""
        for item in self._transport.pages("/v1/webhooks"):
            yield Webhook.model_validate(item)

    def get(self, webhook_id: str) -> Webhook:
        """Return one. Raises NotFound."""
        return Webhook.model_validate(self._transport.request("GET", _path(webhook_id)))

    def update(self, webhook_id: str, **change: Any) -> Webhook:
        """Change its `url`, `description`, `events` (None: all) or `status`. Raises NotFound and InvalidRequest."""
        return Webhook.model_validate(self._transport.request("POST", _path(webhook_id), body=change))

    def rotate_secret(self, webhook_id: str, *, overlap_seconds: int | None = None) -> RotatedWebhook:
        """Give it another secret; for so long (a day) the one before is signed with, too. Raises NotFound."""
        body = given(overlap_seconds=overlap_seconds)
        path = f"{_path(webhook_id)}/rotate_secret"
        return RotatedWebhook.model_validate(self._transport.request("POST", path, body=body, once=True))

    def delete(self, webhook_id: str) -> None:
        """Delete a webhook and what is left to tell it. Raises NotFound."""
        self._transport.request("DELETE", _path(webhook_id))

    def deliveries(self, webhook_id: str) -> Iterator[Delivery]:
        """Yield what it was told in the last 30 days, or is to be told, newest first. Raises NotFound."""
        for item in self._transport.pages(f"{_path(webhook_id)}/deliveries"):
            yield Delivery.model_validate(item)


class AsyncWebhooks:
    """The same, asynchronously."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def create(
        self, url: str, *, events: Sequence[str] | None = None, description: str | None = None
    ) -> NewWebhook:
        """Have a URL told of what happens to sessions: of `events`, or of all. Raises InvalidRequest."""
        body = given(url=url, description=description, events=None if events is None else list(events))
        return NewWebhook.model_validate(await self._transport.request("POST", "/v1/webhooks", body=body, once=True))

    async def list(self) -> AsyncIterator[Webhook]:
        """Yield them, newest first, page after page."""
        async for item in self._transport.pages("/v1/webhooks"):
            yield Webhook.model_validate(item)

    async def get(self, webhook_id: str) -> Webhook:
        """Return one. Raises NotFound."""
        return Webhook.model_validate(await self._transport.request("GET", _path(webhook_id)))

    async def update(self, webhook_id: str, **change: Any) -> Webhook:
        """Change its `url`, `description`, `events` (None: all) or `status`. Raises NotFound and InvalidRequest."""
        return Webhook.model_validate(await self._transport.request("POST", _path(webhook_id), body=change))

    async def rotate_secret(self, webhook_id: str, *, overlap_seconds: int | None = None) -> RotatedWebhook:
        """Give it another secret; for so long (a day) the one before is signed with, too. Raises NotFound."""
        body = given(overlap_seconds=overlap_seconds)
        path = f"{_path(webhook_id)}/rotate_secret"
        return RotatedWebhook.model_validate(await self._transport.request("POST", path, body=body, once=True))

    async def delete(self, webhook_id: str) -> None:
        """Delete a webhook and what is left to tell it. Raises NotFound."""
        await self._transport.request("DELETE", _path(webhook_id))

    async def deliveries(self, webhook_id: str) -> AsyncIterator[Delivery]:
        """Yield what it was told in the last 30 days, or is to be told, newest first. Raises NotFound."""
        async for item in self._transport.pages(f"{_path(webhook_id)}/deliveries"):
            yield Delivery.model_validate(item)
