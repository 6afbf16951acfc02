from __future__ import annotations

import os
from datetime import datetime
from types import TracebackType

import httpx

from trunkline.client.agents import Agents
from trunkline.client.connection import resolve
from trunkline.client.keys import Keys
from trunkline.client.memory import Memory
from trunkline.client.sessions import Sessions
from trunkline.client.transport import Transport
from trunkline.client.usage import Usage, usage_params


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
        self.memory = Memory(self._transport)
        self.sessions = Sessions(self._transport)
        self.keys = Keys(self._transport)

    def usage(
        self,
        *,
        key_id: str | None = None,
        agent_id: str | None = None,
        session_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Usage:
        """Return what the tenant's model calls used, from `since` up to `until`."""
        params = usage_params(key_id, agent_id, session_id, since, until)
        return Usage.model_validate(self._transport.request("GET", "/v1/usage", params=params))

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def __enter__(self) -> Trunkline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
