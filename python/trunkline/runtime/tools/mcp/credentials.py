"""What the session's vaults hold for an MCP server, renewed where it is an OAuth token."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final
from uuid import UUID

from trunkline.errors import Unavailable
from trunkline.oauth.renewals import Access, RenewalFailed, TokenRenewals, access_of
from trunkline.oauth.secrecy import hidden
from trunkline.store import vaults
from trunkline.store.leases import Lease, Task
from trunkline.store.pool import Database
from trunkline.store.sealing import Sealing

RENEW_BEFORE_SECONDS: Final = 60.0
"""So long before it ends a token is renewed: requests are under way for a while, and clocks differ."""
_UNFIT: Final = "its credential is not of the characters that a header takes; put in the token alone."

Renew = Callable[[str], Awaitable[Access]]
"""Returns a token in place of this one. Raises RenewalFailed and Unavailable."""


class CredentialError(Exception):
    """There is a credential that cannot be used; the text is for users."""


class Bearer:
    """The token of one server, as a connection shows it. Without `access` there is none; without `renew` it stays.

    Two of one `name` are the same credential: a connection goes on with another token of an OAuth credential, and ends
    where a token was put in by hand, which may be somebody else's.
    """

    def __init__(
        self, name: tuple[UUID, str] | None = None, access: Access | None = None, renew: Renew | None = None
    ) -> None:
        self._name = name
        self._access = access
        self._renew = renew
        self._shown: list[str] = [] if access is None else [access.token]
        self.problem: str | None = None
        """Why there is no token in force, in words for users; None: that is not known here."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bearer) and self._name == other._name

    def __hash__(self) -> int:
        return hash(self._name)

    async def token(self) -> str | None:
        """Return the token to show, renewed if it ends soon and can be; it may have ended."""
        access = self._access
        if access is not None and self._renew is not None and not access.lasts(RENEW_BEFORE_SECONDS):
            await self._renewed(access.token, self._renew)
        return None if self._access is None else self._access.token

    async def instead_of(self, refused: str) -> str | None:
        """Return a token to show in place of one that the server refuses; None: there is none."""
        if self._access is None or self._renew is None:
            return None
        if self._access.token == refused:
            await self._renewed(refused, self._renew)
        return None if self._access.token == refused else self._access.token

    def without_tokens(self, words: str) -> str:
        """Return what a server said without the tokens that it was shown, should it repeat them."""
        return hidden(words, self._shown)

    def refuse_ended(self) -> None:
        """Raise CredentialError where the token has ended, and there is no other."""
        if self._access is not None and not self._access.lasts():
            raise CredentialError(self.problem or "its credential has expired; put a new access token into the vault.")

    async def _renewed(self, stale: str, renew: Renew) -> None:
        try:
            access = await renew(stale)
        except RenewalFailed as error:
            self.problem = str(error)
        except Unavailable as error:
            self.problem = f"its credential cannot be renewed now: {error.message}"
        else:
            if not _fits(access.token):
                self.problem = _UNFIT
                return
            self._access, self.problem = access, None
            self._shown.append(access.token)


async def bearer_for(
    database: Database, sealing: Sealing, renewals: TokenRenewals, *, lease: Lease, task: Task, url: str
) -> Bearer:
    """Return the token for a server, of the first vault that has one; without a token where none has.

    Raises CredentialError for one that cannot be used, Unavailable when the database is away.
    """
    if not task.vault_ids:
        return Bearer()
    async with database.tenant(lease.tenant_id) as connection:
        found = await vaults.for_server(connection, lease.tenant_id, task.agent_id, task.vault_ids, url)
    if found is None or found.sealed is None:
        return Bearer()
    try:
        opened = sealing.open(found.sealed, lease.tenant_id.bytes, found.id.bytes)
    except Unavailable as error:
        raise CredentialError("this worker lacks the key that its credential was sealed with.") from error
    if "token" in opened:
        bearer = Bearer((found.id, opened["token"]), Access(opened["token"], None))
    else:
        renew = partial(renewals.renewed, lease.tenant_id, found.id) if "refresh_token" in opened else None
        bearer = Bearer((found.id, ""), access_of(found, opened), renew)
    token = await bearer.token()
    if token is not None and not _fits(token):
        raise CredentialError(_UNFIT)
    bearer.refuse_ended()
    return bearer


def _fits(token: str) -> bool:
    """Tell whether a header takes a token."""
    return token.isascii() and token.isprintable() and " " not in token
