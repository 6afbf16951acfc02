from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trunkline.client.blocks import AsyncBlocks, Blocks, Subject, only_agent
from trunkline.client.memory import BlockVersion, Memory, StoredBlock
from trunkline.client.memory_files import Imported, ImportedAgentFile, added_up, parts
from trunkline.client.transport import AsyncTransport, File, segment
from trunkline.client.wire import Wire
from trunkline.domain.memory_file import MEDIA_TYPE


class ToolAnswer(Wire):
    """What a memory tool tells the model; `is_error` when the call was refused."""

    content: str
    is_error: bool


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

    async def get(
        self, agent: str, *, user_id: str | None = None, session_id: str | None = None
    ) -> tuple[StoredBlock, ...]:
        """Return the blocks that a call of this agent for this user and session would read. Raises NotFound."""
        answer = await self._transport.request(
            "GET", f"/v1/agents/{segment(agent)}/memory", params={"user_id": user_id, "session_id": session_id}
        )
        return tuple(StoredBlock.model_validate(block) for block in answer["blocks"])

    async def operations(
        self,
        agent: str,
        block: str,
        operations: Sequence[Mapping[str, Any]],
        *,
        user_id: str | None = None,
        session_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> StoredBlock:
        """Write a block and return it, as `Memory.operations` does."""
        body = {
            "user_id": user_id,
            "session_id": session_id,
            "idempotency_key": idempotency_key,
            "operations": [dict(operation) for operation in operations],
        }
        given = {member: value for member, value in body.items() if value is not None}
        path = f"/v1/agents/{segment(agent)}/memory/{segment(block)}/operations"
        return StoredBlock.model_validate(await self._transport.request("POST", path, body=given))

    async def history(
        self, agent: str, block: str, *, user_id: str | None = None, session_id: str | None = None
    ) -> tuple[BlockVersion, ...]:
        """Return the block's versions, newest first. Raises NotFound."""
        answer = await self._transport.request(
            "GET",
            f"/v1/agents/{segment(agent)}/memory/{segment(block)}/history",
            params={"user_id": user_id, "session_id": session_id},
        )
        return tuple(BlockVersion.model_validate(version) for version in answer["data"])

    async def call_tool(
        self, agent: str, name: str, given: Mapping[str, Any], *, user: str | None = None, session: str | None = None
    ) -> ToolAnswer:
        """Carry out `memory_read`, `memory_update` or `memory_search` as a model calls it; scope `inference`.

        What the model did wrong is in the answer. Raises NotFound for an agent or a tool that is not there.
        """
        body = {"name": name, "input": dict(given), "user_id": user, "session_id": session}
        path = f"/v1/agents/{segment(agent)}/memory_tools"
        return ToolAnswer.model_validate(await self._transport.request("POST", path, body=body))

    async def import_lines(
        self,
        agent: str,
        lines: Iterable[str],
        *,
        user_id: str | None = None,
        session_id: str | None = None,
        new_ids: bool = False,
    ) -> Imported:
        """Import the file of a store that an agent made, as `Memory.import_lines` does."""
        path = f"/v1/agents/{segment(agent)}/memory_import"
        whose = {"user_id": user_id, "session_id": session_id, "ids": "new" if new_ids else None}
        done = []
        for content, query in parts(lines):
            answer = await self._transport.request("POST", path, params=query | whose, file=File(MEDIA_TYPE, content))
            done.append(Imported.model_validate(answer))
        return added_up(done)

    async def import_agent_file(
        self,
        agent: str,
        file: Mapping[str, Any],
        *,
        user_id: str | None = None,
        session_id: str | None = None,
        from_agent: str | None = None,
        declare: bool = False,
    ) -> ImportedAgentFile:
        """Import an agent file of Letta's (`.af`, read as JSON) into an agent's memory; scope `memory`.

        With `declare` (and the scope `manage`) the agent gets the blocks that it does not declare. `from_agent` names
        the one that is meant, where the file has several. Raises InvalidRequest.
        """
        params = {
            "user_id": user_id,
            "session_id": session_id,
            "from_agent": from_agent,
            "declare": "true" if declare else None,
        }
        path = f"/v1/agents/{segment(agent)}/memory_import"
        answer = await self._transport.request("POST", path, params=params, body=file)
        return ImportedAgentFile.model_validate(answer)
