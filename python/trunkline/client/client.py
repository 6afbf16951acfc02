from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from types import TracebackType
from typing import Any

import httpx

from trunkline.client.agents import Agents, AsyncAgents
from trunkline.client.audit import AuditEntry, audit_params
from trunkline.client.call_bodies import AsyncBodies, Bodies
from trunkline.client.connection import resolve
from trunkline.client.deployments import AsyncDeployments, Deployments
from trunkline.client.environments import AsyncEnvironments, Environments
from trunkline.client.erasure import Erasure, erase, erase_async
from trunkline.client.files import AsyncFiles, Files
from trunkline.client.keys import AsyncKeys, Keys
from trunkline.client.limits import AsyncTeams, AsyncUsers, Teams, Users
from trunkline.client.memory_of_subjects import AsyncMemory, MemoryOfSubjects
from trunkline.client.memory_proposals import AsyncMemoryProposals, MemoryProposals
from trunkline.client.memory_stores import AsyncMemoryStores, MemoryStores
from trunkline.client.retention import Retention
from trunkline.client.sessions import AsyncSessions, Sessions
from trunkline.client.transport import AsyncTransport, Transport
from trunkline.client.usage import Usage, usage_params
from trunkline.client.vaults import AsyncVaults, Vaults
from trunkline.client.webhooks import AsyncWebhooks, Webhooks


class Trunkline:
    """A connection to Trunkline: `Trunkline().agents.apply("agent.yaml")`.

    Without arguments it takes `TRUNKLINE_BASE_URL` and `TRUNKLINE_API_KEY`, else the Trunkline that `trunkline up`
    runs on this machine. `http` replaces the network, as in `httpx.Client(transport=…)`. Every method raises the
    errors of `trunkline.errors`. Usable as a context manager, and from one thread at a time or many.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_s: float = 30.0,
        http: httpx.BaseTransport | None = None,
    ) -> None:
        connection = resolve(base_url, api_key, os.environ)
        self._transport = Transport(connection, timeout_s=timeout_s, http=http)
        self.base_url = connection.base_url
        self.agents = Agents(self._transport)
        self.memory = MemoryOfSubjects(self._transport)
        self.memory_stores = MemoryStores(self._transport)
        self.memory_proposals = MemoryProposals(self._transport)
        self.sessions = Sessions(self._transport)
        self.environments = Environments(self._transport)
        self.deployments = Deployments(self._transport)
        self.vaults = Vaults(self._transport)
        self.files = Files(self._transport)
        self.webhooks = Webhooks(self._transport)
        self.bodies = Bodies(self._transport)
        self.keys = Keys(self._transport)
        self.teams = Teams(self._transport)
        self.users = Users(self._transport)

    def usage(self, *, since: datetime | None = None, until: datetime | None = None, **filters: Any) -> Usage:
        """Return what the tenant's model calls used, from `since` up to `until`.

        `filters` are those of `GET /v1/usage`: `key_id`, `agent_id`, `model`, …; a list allows any of its values.
        """
        params = usage_params(since, until, filters)
        return Usage.model_validate(self._transport.request("GET", "/v1/usage", params=params))

    def usage_by(
        self,
        *by: str,
        bucket: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        sort: str | None = None,
        **filters: Any,
    ) -> Iterator[Usage]:
        """Yield the same by group: `usage_by("model", "key", bucket="day")`.

        Groups come by cost, the largest first, or by time where there is a `bucket` (minute, hour, day, month);
        `sort` names a sum to go by instead, with `-` before it for the largest first.
        """
        page = None
        while True:
            params = usage_params(
                since, until, filters, group_by=",".join(by) or None, bucket=bucket, sort=sort, limit=1000, page=page
            )
            answer = self._transport.request("GET", "/v1/usage", params=params)
            yield from (Usage.model_validate(row) for row in answer["data"])
            page = answer["next_page"]
            if page is None:
                return

    def audit_log(
        self,
        *,
        resource_type: str | None = None,
        resource_id: str | None = None,
        user_id: str | None = None,
        key_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = None,
    ) -> Iterator[AuditEntry]:
        """Yield who changed what, newest first, from `since` up to `until`: scope `manage`, a key of no agent."""
        params = audit_params(
            resource_type=resource_type,
            resource_id=resource_id,
            user_id=user_id,
            key_id=key_id,
            since=since,
            until=until,
        )
        for entry in self._transport.pages("/v1/audit_log", params=params, limit=limit):
            yield AuditEntry.model_validate(entry)

    def erase(self, *, user_id: str | None = None, session_id: str | None = None) -> Erasure:
        """Erase all that is kept of a user, or of a session with its forks, for good; scopes `manage` and `memory`.

        Raises InvalidRequest unless one of the two is given, NotFound for a session that is not there.
        """
        return erase(self._transport, user_id=user_id, session_id=session_id)

    def erasures(self, *, user_id: str | None = None, session_id: str | None = None) -> Iterator[Erasure]:
        """Yield what was erased, newest first: of all, of a user, or of a session."""
        for item in self._transport.pages("/v1/erasures", params={"user_id": user_id, "session_id": session_id}):
            yield Erasure.model_validate(item)

    def retention(self) -> Retention:
        """Return for how long the tenant's sessions and events are kept."""
        return Retention.model_validate(self._transport.request("GET", "/v1/retention"))

    def keep(self, *, sessions: str | None = None, events: str | None = None) -> Retention:
        """Say for how long: `keep(sessions="365d", events="90d")`; None: for ever. Raises InvalidRequest, Forbidden."""
        body = {"sessions": sessions, "events": events}
        return Retention.model_validate(self._transport.request("POST", "/v1/retention", body=body, once=True))

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def __enter__(self) -> Trunkline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncTrunkline:
    """The same connection for asynchronous programs: `await tl.memory(user="cus_42").get(Customer)`.

    Usable as an asynchronous context manager.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_s: float = 30.0,
        http: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        connection = resolve(base_url, api_key, os.environ)
        self._transport = AsyncTransport(connection, timeout_s=timeout_s, http=http)
        self.base_url = connection.base_url
        self.agents = AsyncAgents(self._transport)
        self.memory = AsyncMemory(self._transport)
        self.memory_stores = AsyncMemoryStores(self._transport)
        self.memory_proposals = AsyncMemoryProposals(self._transport)
        self.sessions = AsyncSessions(self._transport)
        self.environments = AsyncEnvironments(self._transport)
        self.deployments = AsyncDeployments(self._transport)
        self.vaults = AsyncVaults(self._transport)
        self.files = AsyncFiles(self._transport)
        self.webhooks = AsyncWebhooks(self._transport)
        self.bodies = AsyncBodies(self._transport)
        self.keys = AsyncKeys(self._transport)
        self.teams = AsyncTeams(self._transport)
        self.users = AsyncUsers(self._transport)

    async def usage(self, *, since: datetime | None = None, until: datetime | None = None, **filters: Any) -> Usage:
        """Return what the tenant's model calls used, from `since` up to `until`.

        `filters` are those of `GET /v1/usage`: `key_id`, `agent_id`, `model`, …; a list allows any of its values.
        """
        params = usage_params(since, until, filters)
        return Usage.model_validate(await self._transport.request("GET", "/v1/usage", params=params))

    async def usage_by(
        self,
        *by: str,
        bucket: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        sort: str | None = None,
        **filters: Any,
    ) -> AsyncIterator[Usage]:
        """Yield the same by group: `usage_by("model", "key", bucket="day")`.

        Groups come by cost, the largest first, or by time where there is a `bucket` (minute, hour, day, month);
        `sort` names a sum to go by instead, with `-` before it for the largest first.
        """
        page = None
        while True:
            params = usage_params(
                since, until, filters, group_by=",".join(by) or None, bucket=bucket, sort=sort, limit=1000, page=page
            )
            answer = await self._transport.request("GET", "/v1/usage", params=params)
            for row in answer["data"]:
                yield Usage.model_validate(row)
            page = answer["next_page"]
            if page is None:
                return

    async def audit_log(
        self,
        *,
        resource_type: str | None = None,
        resource_id: str | None = None,
        user_id: str | None = None,
        key_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[AuditEntry]:
        """Yield who changed what, newest first, from `since` up to `until`: scope `manage`, a key of no agent."""
        params = audit_params(
            resource_type=resource_type,
            resource_id=resource_id,
            user_id=user_id,
            key_id=key_id,
            since=since,
            until=until,
        )
        async for entry in self._transport.pages("/v1/audit_log", params=params, limit=limit):
            yield AuditEntry.model_validate(entry)

    async def erase(self, *, user_id: str | None = None, session_id: str | None = None) -> Erasure:
        """Erase all that is kept of a user, or of a session with its forks, for good; scopes `manage` and `memory`.

        Raises InvalidRequest unless one of the two is given, NotFound for a session that is not there.
        """
        return await erase_async(self._transport, user_id=user_id, session_id=session_id)

    async def erasures(self, *, user_id: str | None = None, session_id: str | None = None) -> AsyncIterator[Erasure]:
        """Yield what was erased, newest first: of all, of a user, or of a session."""
        async for item in self._transport.pages("/v1/erasures", params={"user_id": user_id, "session_id": session_id}):
            yield Erasure.model_validate(item)

    async def retention(self) -> Retention:
        """Return for how long the tenant's sessions and events are kept."""
        return Retention.model_validate(await self._transport.request("GET", "/v1/retention"))

    async def keep(self, *, sessions: str | None = None, events: str | None = None) -> Retention:
        """Say for how long: `keep(sessions="365d", events="90d")`; None: for ever. Raises InvalidRequest, Forbidden."""
        body = {"sessions": sessions, "events": events}
        return Retention.model_validate(await self._transport.request("POST", "/v1/retention", body=body, once=True))

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    async def __aenter__(self) -> AsyncTrunkline:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
