"""API keys: random texts, of which only the SHA-256 is kept."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator

from trunkline.domain import ids
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


class KeyRequest(BaseModel):
    """What a new key is to be. `agent_id` is an id or a name; amounts left out are not limited."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=256)]
    scopes: Annotated[frozenset[Scope], Field(min_length=1)] = frozenset({"inference"})
    agent_id: str | None = None
    models: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=256)], ...] | None, Field(min_length=1)] = (
        None
    )
    budget_usd: Annotated[Decimal | None, Field(ge=0, max_digits=18, decimal_places=9)] = None
    rpm: Annotated[int | None, Field(gt=0, lt=2**31)] = None
    expires_at: AwareDatetime | None = None

    @field_validator("scopes", mode="before")
    @classmethod
    def _default_scopes(cls, given: Any) -> Any:
        return ("inference",) if given is None else given


@dataclass(frozen=True, slots=True)
class Key:
    """A key without its text. `spent_usd` and `requests` count since it was made."""

    id: UUID
    name: str
    hint: str
    scopes: tuple[str, ...]
    agent_id: UUID | None
    models: tuple[str, ...] | None
    budget_usd: Decimal | None
    rpm: int | None
    expires_at: datetime | None
    revoked_at: datetime | None
    created_at: datetime
    spent_usd: Decimal = Decimal(0)
    requests: int = 0

    def to_wire(self) -> dict[str, Any]:
        """Return the key as the API shows it; amounts of money are numbers of US dollars."""
        return {
            "id": ids.encode("key", self.id),
            "type": "key",
            "name": self.name,
            "hint": self.hint,
            "scopes": list(self.scopes),
            "agent_id": None if self.agent_id is None else ids.encode("agent", self.agent_id),
            "models": None if self.models is None else list(self.models),
            "budget_usd": None if self.budget_usd is None else float(self.budget_usd),
            "rpm": self.rpm,
            "spent_usd": float(self.spent_usd),
            "requests": self.requests,
            "expires_at": to_wire(self.expires_at),
            "revoked_at": to_wire(self.revoked_at),
            "created_at": to_wire(self.created_at),
        }
