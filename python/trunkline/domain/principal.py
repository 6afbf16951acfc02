"""Who calls: what a key proves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from trunkline.errors import Forbidden

SCOPES: Final = ("inference", "memory", "manage", "passthrough", "operator")
"""What a key may be for: model calls; memory stores and blocks; agents, sessions and keys; the providers' accounts
(files, batches, …), which all tenants share; tenants."""


@dataclass(frozen=True, slots=True)
class Principal:
    """The tenant, rights and agent of the key that a request came with."""

    tenant_id: UUID
    key_id: UUID
    key_name: str
    scopes: frozenset[str]
    agent_id: UUID | None = None
    """The only agent that the key may act for; None: any agent of the tenant."""
    models: tuple[str, ...] | None = None
    """The only models that the key may ask for; None: any."""
    user_id: str | None = None
    """The only end user that the key speaks for, whatever a request says; None: whom the request names."""

    def require(self, scope: str) -> None:
        """Raise Forbidden unless the key has this scope."""
        if scope not in self.scopes:
            raise Forbidden(
                f"The key {self.key_name!r} lacks the scope '{scope}'; use a key that has it, or create one with it "
                f"(POST /v1/keys).",
                code="missing_scope",
                details={"scope": scope},
            )

    def require_whole_tenant(self, what: str) -> None:
        """Raise Forbidden for a key that may act for one agent only: `what` touches what all agents share."""
        if self.agent_id is not None:
            raise Forbidden(
                f"The key {self.key_name!r} may act for one agent only and cannot {what}; use a key of no agent.",
                code="bound_key",
            )
