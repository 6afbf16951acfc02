from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from typing import Any

from trunkline.client.transport import AsyncTransport, Transport, segment
from trunkline.client.wire import Wire, given

_PATH = "/v1/memory_proposals"


class MemoryProposal(Wire):
    """What consolidation would write to one field of a block, or has written, and the events it comes from."""

    id: str
    agent_id: str
    session_id: str
    user_id: str | None = None
    block: str
    scope: str | None = None
    operations: tuple[dict[str, Any], ...]
    """With their preconditions; empty where what the model wrote is no operation."""
    event_ids: tuple[str, ...]
    reason: str = ""
    status: str
    """pending, applied, refused or rejected."""
    error: str | None = None
    """Why it was refused."""
    version_id: str | None = None
    """The version that it made."""
    created_at: datetime
    decided_at: datetime | None = None
    decided_by: str | None = None


def _decision(proposal_id: str, verb: str) -> str:
    return f"{_PATH}/{segment(proposal_id)}/{verb}"


class MemoryProposals:
    """`client.memory_proposals`: what consolidation proposes; scope `memory`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(
        self,
        *,
        status: str | None = None,
        agent_id: str | None = None,
        session_id: str | None = None,
        user_id: str | None = None,
    ) -> Iterator[MemoryProposal]:
        """Yield them, newest first, page after page: with `status="pending"`, those that wait for review."""
        params = given(status=status, agent_id=agent_id, session_id=session_id, user_id=user_id)
        for item in self._transport.pages(_PATH, params=params):
            yield MemoryProposal.model_validate(item)

    def get(self, proposal_id: str) -> MemoryProposal:
        """Return one. Raises NotFound."""
        return MemoryProposal.model_validate(self._transport.request("GET", f"{_PATH}/{segment(proposal_id)}"))

    def approve(self, proposal_id: str) -> MemoryProposal:
        """Write what is proposed. Raises NotFound, and Conflict where what it would change was written meanwhile."""
        return MemoryProposal.model_validate(self._transport.request("POST", _decision(proposal_id, "approve")))

    def reject(self, proposal_id: str) -> MemoryProposal:
        """Let it be. Raises NotFound, and Conflict where it is written already."""
        return MemoryProposal.model_validate(self._transport.request("POST", _decision(proposal_id, "reject")))


class AsyncMemoryProposals:
    """The same, asynchronously."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def list(
        self,
        *,
        status: str | None = None,
        agent_id: str | None = None,
        session_id: str | None = None,
        user_id: str | None = None,
    ) -> AsyncIterator[MemoryProposal]:
        """Yield them, newest first, page after page: with `status="pending"`, those that wait for review."""
        params = given(status=status, agent_id=agent_id, session_id=session_id, user_id=user_id)
        async for item in self._transport.pages(_PATH, params=params):
            yield MemoryProposal.model_validate(item)

    async def get(self, proposal_id: str) -> MemoryProposal:
        """Return one. Raises NotFound."""
        return MemoryProposal.model_validate(await self._transport.request("GET", f"{_PATH}/{segment(proposal_id)}"))

    async def approve(self, proposal_id: str) -> MemoryProposal:
        """Write what is proposed. Raises NotFound, and Conflict where what it would change was written meanwhile."""
        return MemoryProposal.model_validate(await self._transport.request("POST", _decision(proposal_id, "approve")))

    async def reject(self, proposal_id: str) -> MemoryProposal:
        """Let it be. Raises NotFound, and Conflict where it is written already."""
        return MemoryProposal.model_validate(await self._transport.request("POST", _decision(proposal_id, "reject")))
