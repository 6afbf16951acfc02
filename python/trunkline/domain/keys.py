"""API keys: random texts, of which only the SHA-256 is kept."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import AwareDatetime, Field, StrictBool, field_validator

from trunkline.domain import ids
from trunkline.domain.grants import Grants, Stores, ToolNames
from trunkline.domain.limits import UNLIMITED, UNUSED, Amounts, Limits, LimitsRequest, Models, Used, UserId
from trunkline.domain.times import to_wire

PREFIX: Final = "sk-tl-"

Scope = Literal["inference", "memory", "manage", "passthrough", "operator"]


def new_text() -> str:
    """Return a new key text: `sk-tl-` and 43 characters of URL-safe base64, 32 random bytes."""
    return PREFIX + secrets.token_urlsafe(32)


def digest(text: str) -> bytes:
    """Return the SHA-256 of a key's whole text, as it is stored. Not salted: a key has 256 random bits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def hint(text: str) -> str:
    """Return a key's last four characters, by which people tell their keys apart."""
    return text[-4:]


class KeyRequest(Amounts):
    """What a new key is to be. `agent_id` and `team_id` are an id or a name; `users` limits each of its end users."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    scopes: Annotated[frozenset[Scope], Field(min_length=1)] = frozenset({"inference"})
    agent_id: str | None = None
    team_id: str | None = None
    user_id: UserId | None = None
    """The only end user that it speaks for."""
    models: Models = None
    store_bodies: StrictBool | None = None
    """Whether its calls' bodies are stored, where `record.bodies` lets any be; None: as `record.bodies` says."""
    stores: Grants = None
    tools: ToolNames = None
    expires_at: AwareDatetime | None = None
    users: LimitsRequest | None = None

    @field_validator("scopes", mode="before")
    @classmethod
    def _default_scopes(cls, given: Any) -> Any:
        return ("inference",) if given is None else given


class KeyChange(Amounts):
    """What of a key is to change; what is left out stays, null takes a limit away."""

    name: Annotated[str, Field(min_length=1, max_length=256)] = ""
    models: Models = None
    store_bodies: StrictBool | None = None
    stores: Grants = None
    tools: ToolNames = None
    expires_at: AwareDatetime | None = None
    users: LimitsRequest | None = None


@dataclass(frozen=True, slots=True)
class Key:
    """A key without its text. `limits` holds the amounts, `users` what each end user who comes with it may use."""

    id: UUID
    name: str
    hint: str
    scopes: tuple[str, ...]
    created_at: datetime
    agent_id: UUID | None = None
    team_id: UUID | None = None
    user_id: str | None = None
    models: tuple[str, ...] | None = None
    store_bodies: bool | None = None
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    limits: Limits = UNLIMITED
    users: Limits | None = None
    used: Used = UNUSED
    stores: Stores | None = None
    """The only memory that it reaches; None: what its agent, or without one the tenant, has."""
    tools: tuple[str, ...] | None = None
    """The only tools that are carried out for it; None: any."""
    for_key: UUID | None = None
    """The key in whose name the runtime uses this one."""

    def to_wire(self) -> dict[str, Any]:
        """Return the key as the API shows it; amounts of money are numbers of US dollars."""
        return {
            "id": ids.encode("key", self.id),
            "type": "key",
            "name": self.name,
            "hint": self.hint,
            "scopes": list(self.scopes),
            "agent_id": None if self.agent_id is None else ids.encode("agent", self.agent_id),
            "team_id": None if self.team_id is None else ids.encode("team", self.team_id),
            "user_id": self.user_id,
            "models": None if self.models is None else list(self.models),
            "store_bodies": self.store_bodies,
            "stores": None if self.stores is None else self.stores.to_wire(),
            "tools": None if self.tools is None else list(self.tools),
            **self.limits.amounts_to_wire(),
            "users": None if self.users is None else self.users.to_wire(),
            **self.used.to_wire(),
            "expires_at": to_wire(self.expires_at),
            "revoked_at": to_wire(self.revoked_at),
            "created_at": to_wire(self.created_at),
        }
