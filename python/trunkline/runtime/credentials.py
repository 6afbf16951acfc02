"""The keys that the worker calls the gateway with, made when first needed, kept in memory alone.

One a tenant, and one for each key in whose name sessions work: the gateway takes it for that key, with its limits.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from trunkline.domain import ids
from trunkline.domain.keys import Key, digest, hint, new_text
from trunkline.domain.principal import Principal
from trunkline.domain.times import now
from trunkline.errors import NotFound, Unavailable
from trunkline.store import keys
from trunkline.store.pool import Database

_logger = logging.getLogger(__name__)

LIFETIME: Final = timedelta(hours=24)
RENEW_BEFORE: Final = timedelta(hours=1)
SCOPES: Final = ("inference", "runtime")
"""By `runtime` the gateway knows whose calls these are: it records their usage, and leaves the log to the runtime."""


@dataclass(frozen=True, slots=True)
class _Credential:
    key_id: UUID
    text: str
    expires_at: datetime


class Credentials:
    """The worker's keys. Used on one event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._held: dict[tuple[UUID, UUID | None], _Credential] = {}
        self._making: defaultdict[tuple[UUID, UUID | None], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._made: list[tuple[UUID, UUID]] = []

    async def key(self, tenant_id: UUID, for_key: UUID | None = None) -> str:
        """Return the text of a key in force, made if there is none: the tenant's, or one in another key's name.

        Raises Unavailable when the database is away; Forbidden or NotFound where that other key has ended.
        """
        place = (tenant_id, for_key)
        async with self._making[place]:
            held = self._held.get(place)
            if held is None or held.expires_at - now() < RENEW_BEFORE:
                held = self._held[place] = await self._make(tenant_id, for_key)
            return held.text

    def forget(self, tenant_id: UUID, text: str, for_key: UUID | None = None) -> None:
        """Make another key next time: this one is refused, so somebody has revoked it, or the one that it is for."""
        held = self._held.get((tenant_id, for_key))
        if held is not None and held.text == text:
            del self._held[tenant_id, for_key]

    async def revoke(self) -> None:
        """End all keys that were made; what cannot be reached expires by itself."""
        for tenant_id, key_id in self._made:
            principal = Principal(tenant_id, key_id, "runtime", frozenset(SCOPES))
            try:
                async with self._database.tenant(tenant_id) as connection:
                    await keys.revoke(connection, principal, key_id, now())
            except (NotFound, Unavailable) as error:
                _logger.warning("a key of the worker was not revoked, it expires by itself: %s", error)

    async def _make(self, tenant_id: UUID, for_key: UUID | None) -> _Credential:
        text, at = new_text(), now()
        made = _Credential(ids.new(), text, at + LIFETIME)
        key = Key(made.key_id, "runtime", hint(text), SCOPES, at, expires_at=made.expires_at, for_key=for_key)
        async with self._database.tenant(tenant_id) as connection:
            if for_key is not None:
                await keys.in_force(connection, tenant_id, for_key)
            await keys.create(connection, tenant_id, key, digest(text))
        self._made.append((tenant_id, made.key_id))
        return made
