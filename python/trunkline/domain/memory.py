"""Memory: stores, memories, their versions, passages, and whose they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Final, Literal
from uuid import UUID

from trunkline.domain import ids
from trunkline.domain.redaction import Wanted
from trunkline.errors import Conflict, InvalidRequest

Scope = Literal["org", "agent", "user", "session"]
SCOPES: Final[tuple[Scope, ...]] = ("org", "agent", "user", "session")
"""In the order in which blocks stand in a prompt: from what changes least to what changes most."""

FieldState = Literal["unknown", "asserted", "stale", "conflicted"]
"""What is known of a field: no value; a value; a value that is past its time; values that contradict each other."""

ActorType = Literal["agent", "api_key", "user", "runtime"]
VersionOperation = Literal["created", "modified", "deleted"]

MAX_CONTENT_BYTES: Final = 102_400
"""The most that one memory may hold, in UTF-8 bytes: the Managed Agents limit of 100 kB."""

BLOCKS_PREFIX: Final = "/blocks/"


class MemoryPathConflict(Conflict):
    """Another memory is at the path, above it or below it; `details` name it."""

    type: ClassVar[str] = "memory_path_conflict_error"

    def __init__(self, path: str, *, conflicting_path: str, conflicting_memory_id: str) -> None:
        where = "at this path already" if path == conflicting_path else f"at {conflicting_path!r}, which overlaps it"
        super().__init__(
            f"Cannot write {path!r}: there is a memory {where}. Update, rename or delete that memory first, or choose "
            "another path.",
            param="path",
            details={"conflicting_path": conflicting_path, "conflicting_memory_id": conflicting_memory_id},
        )


class MemoryPreconditionFailed(Conflict):
    """The memory is not in the state that the caller expected; `details` carry the state it is in."""

    type: ClassVar[str] = "memory_precondition_failed_error"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who wrote: an agent (`agent_…`), an API key (`key_…`), a user (the client's own id) or the runtime."""

    type: ActorType
    id: str


def actor_to_wire(actor: Actor, session_id: UUID | None) -> dict[str, str] | None:
    """Return who wrote, as the Managed Agents wire has it.

    An agent or the runtime is named by the session it acted in; without one, not at all.
    """
    match actor.type:
        case "api_key":
            return {"type": "api_actor", "api_key_id": actor.id}
        case "user":
            return {"type": "user_actor", "user_id": actor.id}
        case _ if session_id is not None:
            return {"type": "session_actor", "session_id": ids.encode("sesn", session_id)}
        case _:
            return None


@dataclass(frozen=True, slots=True)
class Source:
    """Where a write came from: the session, and the event in it that gave the reason."""

    session_id: UUID | None = None
    event_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose memory is meant. `user_id` is the client's own id of its user, 1 to 256 characters."""

    user_id: str | None = None
    session_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class StoreOwner:
    """The owner of a managed store; `key` is the text by which the database keeps one store an owner."""

    scope: Scope
    agent_id: UUID | None
    subject: str | None

    @property
    def key(self) -> str:
        """The same text as the generated column `memory_stores.owner_key`."""
        match self.scope:
            case "org":
                return "org"
            case "agent":
                return f"agent {self.agent_id}"
            case "user":
                return f"user {self.agent_id} {self.subject}"
            case "session":
                return f"session {self.subject}"


def store_owner(scope: Scope, agent_id: UUID, subject: Subject) -> StoreOwner:
    """Return the owner of the store that holds an agent's memory of this scope.

    Raises InvalidRequest when the scope needs a user or a session and the subject names none.
    """
    match scope:
        case "org":
            return StoreOwner("org", None, None)
        case "agent":
            return StoreOwner("agent", agent_id, None)
        case "user":
            if subject.user_id is None:
                raise InvalidRequest(
                    "This memory is kept for each user, and the request names no user. Give user_id (through the "
                    "gateway: the header x-trunkline-user, or the request's own user field).",
                    param="user_id",
                )
            return StoreOwner("user", agent_id, subject.user_id)
        case "session":
            if subject.session_id is None:
                raise InvalidRequest(
                    "This memory is kept for each session, and the request names no session. Give session_id.",
                    param="session_id",
                )
            return StoreOwner("session", agent_id, str(subject.session_id))


@dataclass(frozen=True, slots=True)
class AgentBlock:
    """A block as an agent's version declares it. `schema` is a JSON Schema object and `options` an object, as text.

    `digest` names all that its rendering depends on; `owner_id` is the agent whose block it is, None for the agent's
    own; what is not `writable` can only be read.
    """

    name: str
    scope: Scope
    description: str
    schema: str
    options: str
    digest: str
    owner_id: UUID | None
    writable: bool


@dataclass(frozen=True, slots=True)
class AgentMemory:
    """What an agent's current version says of memory: its blocks in prompt order, and how many tokens it recalls."""

    agent_id: UUID
    version: int
    recall_tokens: int
    blocks: tuple[AgentBlock, ...]


@dataclass(frozen=True, slots=True)
class MemoryStore:
    """A named container of memories; `managed` when it was made for an agent's blocks and turns."""

    id: UUID
    name: str
    description: str
    metadata: dict[str, str]
    scope: Scope
    agent_id: UUID | None
    subject: str | None
    managed: bool
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None
    expire_after_days: int | None = None
    """For how long it keeps what is in it; None: as long as it is there."""
    redact: Sequence[Wanted] | None = None
    """What is looked for in what is written into it; None: nothing."""


@dataclass(frozen=True, slots=True)
class AttachedStore:
    """A store that is attached to a session: its files stand in the directory `name` of the session's."""

    name: str
    id: UUID
    writable: bool


@dataclass(frozen=True, slots=True)
class Memory:
    """The current state at a path. A block (`block` is its name) has `states`.

    `states` maps each known field to what `memory/states.py` says of it.
    """

    id: UUID
    store_id: UUID
    path: str
    content: str
    content_sha256: str
    content_bytes: int
    block: str | None
    states: dict[str, dict[str, Any]] | None
    version: int
    version_id: UUID
    created_at: datetime
    updated_at: datetime

    @property
    def value(self) -> dict[str, Any]:
        """A block's value. Read from the content, which keeps numbers as they were written."""
        value: dict[str, Any] = json.loads(self.content)
        return value


@dataclass(frozen=True, slots=True)
class MemoryVersion:
    """One write. A redacted version has no path, content, hash, value or operations any more."""

    id: UUID
    store_id: UUID
    memory_id: UUID
    version: int
    operation: VersionOperation
    operations: list[dict[str, Any]] | None
    path: str | None
    content: str | None
    content_sha256: str | None
    content_bytes: int | None
    block: bool
    states: dict[str, dict[str, Any]] | None
    actor: Actor
    session_id: UUID | None
    event_id: UUID | None
    created_at: datetime
    redacted_at: datetime | None
    redacted_by: str | None


@dataclass(frozen=True, slots=True)
class Passage:
    """A turn, word for word, as recall found it. `score` orders the passages of one answer and means nothing else."""

    id: UUID
    session_id: UUID | None
    role: str
    content: str
    tokens: int
    created_at: datetime
    score: float = 0.0
    document_id: UUID | None = None
    tags: Sequence[str] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PassageFilter:
    """Which passages a search may return: all of what is given must hold.

    Said from `since` on and before `until`, by one of `roles`, in one of `sessions`, with all of `tags` and all that
    `metadata` says.
    """

    since: datetime | None = None
    until: datetime | None = None
    roles: Sequence[str] | None = None
    sessions: Sequence[UUID] | None = None
    tags: Sequence[str] | None = None
    metadata: Mapping[str, Any] | None = None


def block_path(name: str) -> str:
    """Return the path at which a managed store keeps this block."""
    return BLOCKS_PREFIX + name


def sha256(content: str) -> str:
    """Return the lowercase hex SHA-256 of the content's UTF-8 bytes: the `content_sha256` of preconditions."""
    return hashlib.sha256(content.encode()).hexdigest()
