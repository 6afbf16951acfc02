"""Blocks of one subject as typed values: `tl.memory(user="cus_42")[Customer]`, synchronous and asynchronous."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter

from trunkline.client.memory import BlockVersion, StoredBlock
from trunkline.client.memory_stores import Passage
from trunkline.client.transport import AsyncTransport, Transport, segment
from trunkline.errors import NotFound

Typed = TypeVar("Typed", bound=BaseModel)
Operation = Mapping[str, Any]


@dataclass(frozen=True)
class Request:
    """One request to the control plane, not yet sent."""

    method: str
    path: str
    params: Mapping[str, Any] | None = None
    body: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Subject:
    """Whose blocks are meant: of which agent (name or id), user and session."""

    agent: str
    user_id: str | None = None
    session_id: str | None = None

    def read(self, block: str, as_of: datetime | None = None) -> Request:
        """Ask for a block, as it is or as it was at a moment."""
        moment = None if as_of is None else as_of.isoformat()
        return Request("GET", self._path(block), {**self._who(), "as_of": moment})

    def history(self, block: str) -> Request:
        """Ask for a block's versions."""
        return Request("GET", self._path(block) + "/history", self._who())

    def write(self, block: str, operations: Sequence[Operation], idempotency_key: str | None) -> Request:
        """Ask for operations on a block."""
        body = {**self._given(), "operations": [dict(operation) for operation in operations]}
        if idempotency_key is not None:
            body["idempotency_key"] = idempotency_key
        return Request("POST", self._path(block) + "/operations", body=body)

    def restore(self, block: str, version: int) -> Request:
        """Ask that a block say again what it said at a version."""
        return Request("POST", self._path(block) + "/restore", body={**self._given(), "version": version})

    def search(self, query: str, filters: Mapping[str, Any]) -> Request:
        """Ask for what was said that answers a text."""
        path = f"/v1/agents/{segment(self.agent)}/memory_search"
        return Request("POST", path, body={**self._given(), **filters, "query": query})

    def _path(self, block: str) -> str:
        return f"/v1/agents/{segment(self.agent)}/memory/{segment(block)}"

    def _who(self) -> dict[str, Any]:
        return {"user_id": self.user_id, "session_id": self.session_id}

    def _given(self) -> dict[str, Any]:
        return {key: value for key, value in self._who().items() if value is not None}


def block_name(block: str | type[BaseModel]) -> str:
    """Return the name of a block given by name or by class. Raises TypeError for a class that is no block."""
    if isinstance(block, str):
        return block
    name = getattr(block, "__block_name__", None)
    if not isinstance(name, str):
        raise TypeError(f"{block.__name__} is not a subclass of trunkline.Block; give a block's class, or its name")
    return name


def typed(kind: type[Typed], value: Mapping[str, Any] | None) -> Typed:
    """Return a block's value as an instance of its class. A field that is unknown is None, whatever its type says.

    Raises pydantic's ValidationError where a stored value does not fit the class.
    """
    known = value or {}
    fields = {
        name: TypeAdapter[Any](field.annotation or Any).validate_python(known[name]) if name in known else None
        for name, field in kind.model_fields.items()
    }
    return kind.model_construct(_fields_set=set(known) & set(fields), **fields)


class Blocks:
    """The blocks of one subject. A block is named by its class or its name; every method raises NotFound for others."""

    def __init__(self, transport: Transport, subject: Subject) -> None:
        self._transport, self.subject = transport, subject

    def __getitem__(self, kind: type[Typed]) -> Typed:
        """Return the block as it stands, as an instance of its class."""
        return typed(kind, self.read(kind).value)

    def read(self, block: str | type[BaseModel], *, as_of: datetime | None = None) -> StoredBlock:
        """Return the block with its states, as it is or as it was at a moment."""
        return StoredBlock.model_validate(self._send(self.subject.read(block_name(block), as_of)))

    def write(
        self, block: str | type[BaseModel], *operations: Operation, idempotency_key: str | None = None
    ) -> StoredBlock:
        """Carry out operations, all or none, and return the block. Raises InvalidRequest, and Conflict."""
        return StoredBlock.model_validate(
            self._send(self.subject.write(block_name(block), operations, idempotency_key))
        )

    def history(self, block: str | type[BaseModel]) -> tuple[BlockVersion, ...]:
        """Return the block's versions, newest first."""
        answer = self._send(self.subject.history(block_name(block)))
        return tuple(BlockVersion.model_validate(version) for version in answer["data"])

    def restore(self, block: str | type[BaseModel], version: int) -> StoredBlock:
        """Make the block say again what it said at a version."""
        return StoredBlock.model_validate(self._send(self.subject.restore(block_name(block), version)))

    def search(self, query: str, **filters: Any) -> tuple[Passage, ...]:
        """Return what was said that answers a query, best first; `filters` are the route's own, such as `limit`.

        It is the user's turns with the agent, or where no user is meant, the session's.
        """
        answer = self._send(self.subject.search(query, filters))
        return tuple(Passage.model_validate(passage) for passage in answer["data"])

    def _send(self, request: Request) -> Any:
        return self._transport.request(request.method, request.path, params=request.params, body=request.body)


class AsyncBlocks:
    """The blocks of one subject, asynchronously; `await blocks.get(Customer)` takes the place of `blocks[Customer]`."""

    def __init__(self, transport: AsyncTransport, subject: Subject) -> None:
        self._transport, self.subject = transport, subject

    async def get(self, kind: type[Typed]) -> Typed:
        """Return the block as it stands, as an instance of its class."""
        return typed(kind, (await self.read(kind)).value)

    async def read(self, block: str | type[BaseModel], *, as_of: datetime | None = None) -> StoredBlock:
        """Return the block with its states, as it is or as it was at a moment."""
        return StoredBlock.model_validate(await self._send(self.subject.read(block_name(block), as_of)))

    async def write(
        self, block: str | type[BaseModel], *operations: Operation, idempotency_key: str | None = None
    ) -> StoredBlock:
        """Carry out operations, all or none, and return the block. Raises InvalidRequest, and Conflict."""
        return StoredBlock.model_validate(
            await self._send(self.subject.write(block_name(block), operations, idempotency_key))
        )

    async def history(self, block: str | type[BaseModel]) -> tuple[BlockVersion, ...]:
        """Return the block's versions, newest first."""
        answer = await self._send(self.subject.history(block_name(block)))
        return tuple(BlockVersion.model_validate(version) for version in answer["data"])

    async def restore(self, block: str | type[BaseModel], version: int) -> StoredBlock:
        """Make the block say again what it said at a version."""
        return StoredBlock.model_validate(await self._send(self.subject.restore(block_name(block), version)))

    async def search(self, query: str, **filters: Any) -> tuple[Passage, ...]:
        """Return what was said that answers a query, best first; `filters` are the route's own, such as `limit`.

        It is the user's turns with the agent, or where no user is meant, the session's.
        """
        answer = await self._send(self.subject.search(query, filters))
        return tuple(Passage.model_validate(passage) for passage in answer["data"])

    async def _send(self, request: Request) -> Any:
        return await self._transport.request(request.method, request.path, params=request.params, body=request.body)


def only_agent(names: Sequence[str]) -> str:
    """Return the one agent there is, meant where none is named. Raises NotFound when there is not one."""
    if len(names) != 1:
        raise NotFound(
            f"There {'are several agents' if names else 'is no agent'}; say whose memory is meant: memory(agent=…)."
        )
    return names[0]
