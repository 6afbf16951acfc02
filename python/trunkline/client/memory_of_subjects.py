from __future__ import annotations

from trunkline.client.blocks import AsyncBlocks, Blocks, Subject, only_agent
from trunkline.client.memory import Memory
from trunkline.client.transport import AsyncTransport


class MemoryOfSubjects(Memory):
    """`client.memory`; called with a subject, its blocks as typed values: `client.memory("support", user="cus_42")`."""

    def __call__(self, agent: str | None = None, *, user: str | None = None, session: str | None = None) -> Blocks:
        """Return the blocks of an agent (name or id) for a user, a session, or both.

        Without `agent`, the only one there is, looked up with the scope `manage`. Raises NotFound if there are more.
        """
        if agent is None:
            found = self._transport.request("GET", "/v1/agents", params={"limit": 2})["data"]
            agent = only_agent([item["id"] for item in found])
        return Blocks(self._transport, Subject(agent, user, session))


class AsyncMemory:
    """`client.memory` of the asynchronous client."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    def __call__(self, agent: str, *, user: str | None = None, session: str | None = None) -> AsyncBlocks:
        """Return the blocks of an agent (name or id) for a user, a session, or both."""
        return AsyncBlocks(self._transport, Subject(agent, user, session))
