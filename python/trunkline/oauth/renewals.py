"""Access tokens of vaults, renewed by one worker at a time: a refresh token may be good for one use only.

Whoever renews says so in a row, which holds neither a connection nor a lock while the token endpoint is asked. Others
wait for what it stores; if it dies, they begin anew when its time is over.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final
from uuid import UUID

from trunkline.domain.credentials import Credential, Secrets, Tokens, renewed
from trunkline.domain.times import from_wire, now
from trunkline.errors import Unavailable
from trunkline.oauth import token_endpoint
from trunkline.oauth.token_endpoint import NotRenewed, Said
from trunkline.public_hosts import Allowed
from trunkline.store import credential_renewals, vaults
from trunkline.store.pool import Database
from trunkline.store.sealing import Sealing

UNDER_WAY_SECONDS: Final = 30.0
"""For how long one is left alone: longer than asking and storing take."""
FAILED_SECONDS: Final = 10.0
"""For how long one that failed is not tried again: many sessions may want it."""
_LOOK_SECONDS: Final = 0.2
_STORE_PAUSES: Final = (0.1, 0.5, 1.0, 2.0, 5.0, 5.0)
"""Between attempts to store what a refresh token was spent for: lost, somebody has to sign in again."""
_CLOSE_SECONDS: Final = 15.0


class RenewalFailed(Exception):
    """There is no access token in force; the text is for users.

    `has_no_refresh`: nothing was tried, as there is no refresh token. `said`: what the token endpoint answered.
    """

    def __init__(self, message: str, *, has_no_refresh: bool = False, said: Said | None = None) -> None:
        super().__init__(message)
        self.has_no_refresh = has_no_refresh
        self.said = said


@dataclass(frozen=True, slots=True)
class Access:
    """An access token, and when it ends; None: nobody said."""

    token: str = field(repr=False)
    expires_at: datetime | None

    def lasts(self, seconds: float = 0.0) -> bool:
        """Tell whether it is in force for so long, as far as anybody knows."""
        return self.expires_at is None or (self.expires_at - now()).total_seconds() > seconds


@dataclass(frozen=True, slots=True)
class _Begun:
    """A renewal that is ours until a time, which names it."""

    until: datetime
    credential: Credential
    secrets: Secrets = field(repr=False)


class TokenRenewals:
    """The renewals of one process. Used on one event loop."""

    def __init__(self, database: Database, sealing: Sealing, allow: Collection[Allowed]) -> None:
        self._database = database
        self._sealing = sealing
        self.allow = allow
        """Where token endpoints, and the servers that take the tokens, may be beside public addresses."""
        self._under_way: set[asyncio.Task[Access]] = set()

    async def renewed(self, tenant_id: UUID, credential_id: UUID, stale: str, *, insist: bool = False) -> Access:
        """Return an access token in place of a stale one: what another has stored meanwhile, or a new one.

        `insist`: try again though it has just failed. Raises RenewalFailed, and Unavailable when the database is away
        or the key of the vault is not here.
        """
        give_up = time.monotonic() + 2 * UNDER_WAY_SECONDS
        while time.monotonic() < give_up:
            found = await self._begin(tenant_id, credential_id, stale, insist=insist)
            if isinstance(found, Access):
                return found
            if found is not None:
                # Nobody who stops waiting for it may end it: the refresh token may have been spent by then.
                task = asyncio.create_task(self._renew(tenant_id, found))
                self._under_way.add(task)
                task.add_done_callback(self._ended)
                return await asyncio.shield(task)
            await asyncio.sleep(_LOOK_SECONDS)
        raise RenewalFailed("its token is being renewed elsewhere, which takes too long; try again.")

    async def close(self) -> None:
        """Wait for what is under way."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=_CLOSE_SECONDS)

    def _ended(self, task: asyncio.Task[Access]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # there may be nobody left to hear it

    async def _begin(self, tenant_id: UUID, credential_id: UUID, stale: str, *, insist: bool) -> Access | _Begun | None:
        """Return what another has stored, or a renewal that is ours; None: it is another's. Raises RenewalFailed."""
        async with self._database.tenant(tenant_id) as connection:
            credential = await credential_renewals.lock_credential(connection, tenant_id, credential_id)
            if credential is None or credential.sealed is None:
                raise RenewalFailed("its credential was archived or deleted; give the session another.")
            secrets = self._sealing.open(credential.sealed, tenant_id.bytes, credential_id.bytes)
            stored = access_of(credential, secrets)
            if stored.token != stale and stored.lasts():
                return stored
            if "refresh_token" not in secrets:
                raise RenewalFailed(
                    "its credential has expired or is refused, and has no refresh token; put a new access token into "
                    "the vault.",
                    has_no_refresh=True,
                )
            current = await credential_renewals.current(connection, tenant_id, credential_id)
            if current is not None and current.error is None:
                return None
            if current is not None and current.error is not None and not insist:
                raise RenewalFailed(current.error)
            until = await credential_renewals.begin(connection, tenant_id, credential_id, UNDER_WAY_SECONDS)
            return _Begun(until, credential, secrets)

    async def _renew(self, tenant_id: UUID, begun: _Begun) -> Access:
        credential = begun.credential
        try:
            tokens = await token_endpoint.renew(credential.auth["refresh"], begun.secrets, self.allow)
        except NotRenewed as error:
            words = f"its credential could not be renewed: {error}"
            async with self._database.tenant(tenant_id) as connection:
                await credential_renewals.fail(
                    connection, tenant_id, credential.id, begun.until, seconds=FAILED_SECONDS, error=words
                )
            raise RenewalFailed(words, said=error.said) from error
        for pause in _STORE_PAUSES:
            try:
                return await self._store(tenant_id, begun, tokens)
            except Unavailable:
                await asyncio.sleep(pause)
        return await self._store(tenant_id, begun, tokens)

    async def _store(self, tenant_id: UUID, begun: _Begun, tokens: Tokens) -> Access:
        """Store what the refresh token was spent for, unless somebody has put in another meanwhile; return it."""
        async with self._database.tenant(tenant_id) as connection:
            credential = await credential_renewals.lock_credential(connection, tenant_id, begun.credential.id)
            if credential is None or credential.sealed is None:
                raise RenewalFailed("its credential was archived or deleted; give the session another.")
            owner = (tenant_id.bytes, credential.id.bytes)
            secrets = self._sealing.open(credential.sealed, *owner)
            await credential_renewals.end(connection, tenant_id, credential.id, begun.until)
            if secrets.get("refresh_token") == begun.secrets["refresh_token"]:
                auth, secrets = renewed(credential.auth, secrets, tokens)
                sealed = self._sealing.seal(secrets, *owner)
                credential = replace(credential, auth=auth, sealed=sealed, updated_at=now())
                await vaults.update_credential(connection, tenant_id, credential)
            return access_of(credential, secrets)


def access_of(credential: Credential, secrets: Secrets) -> Access:
    """Return the access token of an `mcp_oauth`."""
    ends = credential.auth.get("expires_at")
    return Access(secrets["access_token"], None if ends is None else from_wire(ends))
