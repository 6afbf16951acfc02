from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from trunkline.client.memory_files import Imported, ImportedAgentFile, added_up, parts
from trunkline.client.transport import File, Transport, segment
from trunkline.client.wire import Wire
from trunkline.domain.memory_file import MEDIA_TYPE


class StoredBlock(Wire):
    """A block as it stands."""

    block: str
    scope: str
    """`org`, `agent`, `user` or `session`."""
    value: dict[str, Any] | None = None
    """Field → value; a field without a value is unknown."""
    states: dict[str, Any] | None = None
    """Field → `{state, version_id, at}`."""
    content_sha256: str | None = None
    version: int | None = None
    """None, or 0, while nobody has written it."""
    rendered: str
    """What the model reads."""


class Actor(Wire):
    """Who wrote: `agent`, `api_key`, `user` or `runtime`, and its id."""

    type: str
    id: str


class BlockVersion(Wire):
    """One write of a block."""

    id: str
    version: int
    operation: str
    """`created`, `modified` or `deleted`."""
    operations: tuple[dict[str, Any], ...] | None = None
    """The block operations that made it."""
    value: dict[str, Any] | None = None
    actor: Actor
    session_id: str | None = None
    event_id: str | None = None
    """The event it came from."""
    created_at: datetime


class Memory:
    """`client.memory`: the blocks of an agent; scope `memory`. An agent is its name or its id."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def get(self, agent: str, *, user_id: str | None = None, session_id: str | None = None) -> tuple[StoredBlock, ...]:
        """Return the blocks that a call of this agent for this user and session would read. Raises NotFound."""
        answer = self._transport.request(
            "GET", f"/v1/agents/{segment(agent)}/memory", params={"user_id": user_id, "session_id": session_id}
        )
        return tuple(StoredBlock.model_validate(block) for block in answer["blocks"])

    def operations(
        self,
        agent: str,
        block: str,
        operations: Sequence[Mapping[str, Any]],
        *,
        user_id: str | None = None,
        session_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> StoredBlock:
        """Write a block with `{"op": set|append|remove|merge, "field", "value", "expect_sha256"?}` and return it.

        All operations are carried out or none. Raises InvalidRequest if the block's schema would be broken, Conflict
        with the current state in `details` if an `expect_sha256` does not hold.
        """
        body = {
            "user_id": user_id,
            "session_id": session_id,
            "idempotency_key": idempotency_key,
            "operations": [dict(operation) for operation in operations],
        }
        given = {member: value for member, value in body.items() if value is not None}
        path = f"/v1/agents/{segment(agent)}/memory/{segment(block)}/operations"
        return StoredBlock.model_validate(self._transport.request("POST", path, body=given))

    def history(
        self, agent: str, block: str, *, user_id: str | None = None, session_id: str | None = None
    ) -> tuple[BlockVersion, ...]:
        """Return the block's versions, newest first. Raises NotFound."""
        answer = self._transport.request(
            "GET",
            f"/v1/agents/{segment(agent)}/memory/{segment(block)}/history",
            params={"user_id": user_id, "session_id": session_id},
        )
        return tuple(BlockVersion.model_validate(version) for version in answer["data"])

    def import_lines(
        self,
        agent: str,
        lines: Iterable[str],
        *,
        user_id: str | None = None,
        session_id: str | None = None,
        new_ids: bool = False,
    ) -> Imported:
        """Import the file of a store that an agent made into the same kind of memory of this agent.

        As `MemoryStores.import_lines`; whose memory it becomes is said here, not by the file.
        """
        path = f"/v1/agents/{segment(agent)}/memory_import"
        whose = {"user_id": user_id, "session_id": session_id, "ids": "new" if new_ids else None}
        done = []
        for content, query in parts(lines):
            answer = self._transport.request("POST", path, params=query | whose, file=File(MEDIA_TYPE, content))
            done.append(Imported.model_validate(answer))
        return added_up(done)

    def import_agent_file(
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
        answer = self._transport.request("POST", path, params=params, body=file)
        return ImportedAgentFile.model_validate(answer)
