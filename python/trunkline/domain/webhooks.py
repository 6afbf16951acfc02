"""Webhooks: who is told of what happens to sessions, signed as Standard Webhooks, which Anthropic's SDK reads."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from trunkline.domain import ids
from trunkline.domain.times import to_wire

EventType = Literal[
    "session.status_run_started",
    "session.status_idled",
    "session.requires_action",
    "session.budget_reached",
    "session.status_rescheduled",
    "session.status_terminated",
    "session.updated",
]
Status = Literal["enabled", "paused"]

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 (how secrets begin)
_SECRET_BYTES: Final = 32


def _http(url: str) -> str:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("https", "http") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError as error:
        raise ValueError("must be a URL such as 'https://example.com/hooks'") from error
    if not good or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("must be a URL such as 'https://example.com/hooks', in ASCII")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not hold a user or a password; the signature says who sends")
    return url


Url = Annotated[str, Field(max_length=2048), AfterValidator(_http)]
Events = Annotated[tuple[EventType, ...], Field(min_length=1)]


class WebhookRequest(BaseModel):
    """A new webhook; without `events` it is told of all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: Url
    description: Annotated[str, Field(max_length=1024)] = ""
    events: Events | None = None


class WebhookUpdate(BaseModel):
    """A change to a webhook: what is absent stays. `enabled` has one that was paused told again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: Url | None = None
    description: Annotated[str, Field(max_length=1024)] | None = None
    events: Events | None = None
    status: Status | None = None


class SecretRotation(BaseModel):
    """For how long what is sent is signed with the secret before, too; 0: that one has leaked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    overlap_seconds: Annotated[int, Field(ge=0, le=7 * 86_400, strict=True)] = 86_400


@dataclass(frozen=True, slots=True)
class Webhook:
    """Who is told. `agent_id`: of this agent's sessions alone."""

    id: UUID
    agent_id: UUID | None
    url: str
    description: str
    events: tuple[str, ...] | None
    status: Status
    paused_reason: Mapping[str, Any] | None
    failures: int
    created_at: datetime
    updated_at: datetime

    def to_wire(self) -> dict[str, Any]:
        """Return it as the API tells it, without its secret."""
        return {
            "id": ids.encode("whk", self.id),
            "type": "webhook",
            "url": self.url,
            "description": self.description,
            "events": None if self.events is None else list(self.events),
            "agent_id": None if self.agent_id is None else ids.encode("agent", self.agent_id),
            "status": self.status,
            "paused_reason": self.paused_reason,
            "failures": self.failures,
            "created_at": to_wire(self.created_at),
            "updated_at": to_wire(self.updated_at),
        }


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event that a webhook was told, or is to be told."""

    id: UUID
    event_id: UUID
    event_type: str
    session_id: UUID
    status: Literal["pending", "delivered", "failed"]
    attempts: int
    next_at: datetime | None
    answered: int | None
    error: str | None
    created_at: datetime
    delivered_at: datetime | None

    def to_wire(self) -> dict[str, Any]:
        """Return it as the API tells it."""
        return {
            "id": ids.encode("whd", self.id),
            "type": "webhook_delivery",
            "event_id": ids.encode("whevt", self.event_id),
            "event_type": self.event_type,
            "session_id": ids.encode("sesn", self.session_id),
            "status": self.status,
            "attempts": self.attempts,
            "next_attempt_at": to_wire(self.next_at),
            "response_status": self.answered,
            "error": self.error,
            "created_at": to_wire(self.created_at),
            "delivered_at": to_wire(self.delivered_at),
        }


@dataclass(frozen=True, slots=True)
class Due:
    """A delivery that is to be attempted now; `secret` is sealed."""

    tenant_id: UUID
    id: UUID
    webhook_id: UUID
    event_id: UUID
    event_type: str
    session_id: UUID
    attempts: int
    created_at: datetime
    url: str
    secret: bytes

    @property
    def body(self) -> bytes:
        """The event of Anthropic's wire. It names the session; what was said is for whoever has a key to ask for."""
        told = {
            "id": ids.encode("whevt", self.event_id),
            "type": "event",
            "created_at": to_wire(self.created_at),
            "data": {
                "type": self.event_type,
                "id": ids.encode("sesn", self.session_id),
                "organization_id": ids.encode("tnt", self.tenant_id),
                "workspace_id": ids.encode("tnt", self.tenant_id),
            },
        }
        return json.dumps(told, separators=(",", ":")).encode()


def new_secret() -> str:
    """Return a new signing secret."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def sealed_for(tenant_id: UUID, webhook_id: UUID) -> tuple[bytes, ...]:
    """Return what a webhook's sealed secret belongs to."""
    return (b"webhook", tenant_id.bytes, webhook_id.bytes)


def rotated(kept: Mapping[str, str], secret: str, until: datetime) -> dict[str, str]:
    """Return what is sealed of a webhook with a new secret; the one before is in force until a time, older ones end."""
    return {"secret": secret, "before": kept["secret"], "before_until": until.isoformat()}


def in_force(kept: Mapping[str, str], at: datetime) -> list[str]:
    """Return the secrets that are signed with, of what is sealed of a webhook, the newest first."""
    if "before" in kept and datetime.fromisoformat(kept["before_until"]) > at:
        return [kept["secret"], kept["before"]]
    return [kept["secret"]]


def signed(by: Iterable[str], event_id: UUID, at: datetime, body: bytes) -> dict[str, str]:
    """Return the headers of Standard Webhooks: event, time of this attempt, HMAC-SHA256 over these and the body.

    There is one signature a secret in `by`; receivers take what any of them fits.
    """
    name, seconds = ids.encode("whevt", event_id), str(int(at.timestamp()))
    said = b".".join((name.encode(), seconds.encode(), body))
    return {
        "webhook-id": name,
        "webhook-timestamp": seconds,
        "webhook-signature": " ".join(_signature(secret, said) for secret in by),
    }


def _signature(secret: str, said: bytes) -> str:
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    return f"v1,{base64.b64encode(hmac.new(key, said, hashlib.sha256).digest()).decode()}"
