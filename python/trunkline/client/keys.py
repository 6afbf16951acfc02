from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import Field

from trunkline.client.transport import AsyncTransport, Transport, segment
from trunkline.client.wire import Wire, given


class Key(Wire):
    """An API key without its text."""

    id: str
    name: str
    hint: str
    """The last four characters of the key."""
    scopes: tuple[str, ...] = ()
    agent_id: str | None = None
    """The only agent that the key may act for."""
    models: tuple[str, ...] | None = None
    store_bodies: bool | None = None
    """Whether its calls' bodies are stored; None: as the server's `record.bodies` says."""
    stores: tuple[dict[str, str], ...] | None = None
    """The only memory that it reaches; None: what its agent, or without one the tenant, has."""
    tools: tuple[str, ...] | None = None
    """The only tools that are carried out for it; None: any."""
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    created_at: datetime | None = None


class NewKey(Key):
    """A key just made; its text is shown this once."""

    key: str = Field(repr=False)


def _body(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is said of a key as JSON."""
    return {
        name: value.isoformat()
        if isinstance(value, datetime)
        else [dict(one) if isinstance(one, Mapping) else one for one in value]
        if isinstance(value, Sequence | frozenset | set) and not isinstance(value, str)
        else value
        for name, value in changes.items()
    }


class Keys:
    """`client.keys`: the API keys of the tenant; scope `manage`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self,
        name: str,
        *,
        scopes: Sequence[str] | None = None,
        agent_id: str | None = None,
        models: Sequence[str] | None = None,
        stores: Sequence[Mapping[str, str]] | None = None,
        tools: Sequence[str] | None = None,
        budget_usd: float | None = None,
        budget_period: str | int | None = None,
        rpm: int | None = None,
        tpm: int | None = None,
        parallel: int | None = None,
        team_id: str | None = None,
        user_id: str | None = None,
        expires_at: datetime | None = None,
        store_bodies: bool | None = None,
    ) -> NewKey:
        """Make a key.

        `scopes`: of inference, memory, manage, operator; `budget_period`: total, day, week, month, or a number of
        seconds; `rpm`, `tpm`: requests and tokens a minute; `team_id`: a team's id or name; `store_bodies`: whether its
        calls' bodies are stored (None: as the server's `record.bodies` says); `stores`: the only memory that it
        reaches, `{"memory_store_id": …}` or `{"scope": "user"}`, with an `access` of read_only or read_write; `tools`:
        the only tools that are carried out for it.
        """
        body = _body(
            given(
                name=name,
                scopes=scopes,
                agent_id=agent_id,
                models=models,
                stores=stores,
                tools=tools,
                budget_usd=budget_usd,
                budget_period=budget_period,
                rpm=rpm,
                tpm=tpm,
                parallel=parallel,
                team_id=team_id,
                user_id=user_id,
                expires_at=expires_at,
                store_bodies=store_bodies,
            )
        )
        return NewKey.model_validate(self._transport.request("POST", "/v1/keys", body=body, once=True))

    def get(self, key_id: str) -> Key:
        """Return a key, without its text. Raises NotFound."""
        return Key.model_validate(self._transport.request("GET", f"/v1/keys/{segment(key_id)}"))

    def update(self, key_id: str, **changes: Any) -> Key:
        """Change what is named, as `create` has it but for scopes, agent, team and user; None takes a limit away.

        Raises NotFound, Forbidden where it would reach further than the key that asks, Conflict for a revoked one.
        """
        return Key.model_validate(
            self._transport.request("POST", f"/v1/keys/{segment(key_id)}", body=_body(changes), once=True)
        )

    def list(self) -> tuple[Key, ...]:
        """Return all keys of the tenant."""
        return tuple(Key.model_validate(item) for item in self._transport.pages("/v1/keys"))

    def revoke(self, key_id: str) -> None:
        """End a key for good. Raises NotFound."""
        self._transport.request("DELETE", f"/v1/keys/{segment(key_id)}")


class AsyncKeys:
    """The same, asynchronously."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def create(
        self,
        name: str,
        *,
        scopes: Sequence[str] | None = None,
        agent_id: str | None = None,
        models: Sequence[str] | None = None,
        stores: Sequence[Mapping[str, str]] | None = None,
        tools: Sequence[str] | None = None,
        budget_usd: float | None = None,
        budget_period: str | int | None = None,
        rpm: int | None = None,
        tpm: int | None = None,
        parallel: int | None = None,
        team_id: str | None = None,
        user_id: str | None = None,
        expires_at: datetime | None = None,
        store_bodies: bool | None = None,
    ) -> NewKey:
        """Make a key, as `Keys.create` does."""
        body = _body(
            given(
                name=name,
                scopes=scopes,
                agent_id=agent_id,
                models=models,
                stores=stores,
                tools=tools,
                budget_usd=budget_usd,
                budget_period=budget_period,
                rpm=rpm,
                tpm=tpm,
                parallel=parallel,
                team_id=team_id,
                user_id=user_id,
                expires_at=expires_at,
                store_bodies=store_bodies,
            )
        )
        return NewKey.model_validate(await self._transport.request("POST", "/v1/keys", body=body, once=True))

    async def get(self, key_id: str) -> Key:
        """Return a key, without its text. Raises NotFound."""
        return Key.model_validate(await self._transport.request("GET", f"/v1/keys/{segment(key_id)}"))

    async def update(self, key_id: str, **changes: Any) -> Key:
        """Change what is named, as `create` has it but for scopes, agent, team and user; None takes a limit away.

        Raises NotFound, Forbidden where it would reach further than the key that asks, Conflict for a revoked one.
        """
        return Key.model_validate(
            await self._transport.request("POST", f"/v1/keys/{segment(key_id)}", body=_body(changes), once=True)
        )

    async def list(self) -> tuple[Key, ...]:
        """Return all keys of the tenant."""
        return tuple([Key.model_validate(item) async for item in self._transport.pages("/v1/keys")])

    async def revoke(self, key_id: str) -> None:
        """End a key for good. Raises NotFound."""
        await self._transport.request("DELETE", f"/v1/keys/{segment(key_id)}")
