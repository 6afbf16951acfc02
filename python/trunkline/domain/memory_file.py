"""A memory store as a file: JSON Lines, one object a line, each of a `type`, in this order.

`header`, then the `block`s that agents declare for it, the `version`s in the order of their time, the `memory`s by
path, the `passage`s by conversation, and `end`, which counts the lines before it, so that a file that was cut off is
known by it. What is null or empty is left out. Ids and times are as on the wire.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter

from trunkline.domain.memory import ActorType, Scope, VersionOperation

MEDIA_TYPE: Final = "application/x-ndjson"
FORMAT: Final = 1
"""Of the file; one of a later format is refused."""


Short = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
Number = Annotated[int, Field(ge=1, lt=2**31, strict=True)]
Key = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Text = Annotated[str, StringConstraints(max_length=512)]
MemoryId = Annotated[str, StringConstraints(pattern="^mem_[0-9a-f]{32}$")]
VersionId = Annotated[str, StringConstraints(pattern="^memver_[0-9a-f]{32}$")]
PassageId = Annotated[str, StringConstraints(pattern="^psg_[0-9a-f]{32}$")]
SessionId = Annotated[str, StringConstraints(pattern="^sesn_[0-9a-f]{32}$")]
EventId = Annotated[str, StringConstraints(pattern="^sevt_[0-9a-f]{32}$")]


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class By(_Line):
    """Who wrote: as `domain.memory.Actor`."""

    type: ActorType
    id: Annotated[str, StringConstraints(max_length=512)]


class StoreLine(_Line):
    """What a store says of itself; `managed` was made for an agent's blocks and turns, of `subject`, if of anybody."""

    name: Short
    description: Annotated[str, StringConstraints(max_length=1024)] = ""
    metadata: Annotated[dict[Key, Text], Field(max_length=16)] = {}
    scope: Scope
    managed: bool = False
    subject: Short | None = None
    expire_after_days: Annotated[int, Field(ge=1, le=36_500, strict=True)] | None = None


class HeaderLine(_Line):
    """The first line."""

    type: Literal["header"]
    format: Annotated[int, Field(strict=True)]
    store: StoreLine


class BlockLine(_Line):
    """How the agent declared a block, for whoever has to declare it where the file goes."""

    type: Literal["block"]
    name: Short
    scope: Scope
    description: str = ""
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    options: dict[str, Any] = {}


class Against(_Line):
    """A value that contradicts another, and who said it."""

    value: Any
    version_id: VersionId
    at: AwareDatetime
    actor: By
    session_id: SessionId | None = None
    event_id: EventId | None = None


class StateLine(_Line):
    """What is known of a field, as `memory/states.py` keeps it."""

    state: Literal["asserted", "conflicted"]
    version_id: VersionId
    at: AwareDatetime
    actor: By
    session_id: SessionId | None = None
    event_id: EventId | None = None
    valid_from: AwareDatetime | None = None
    valid_to: AwareDatetime | None = None
    stale_at: AwareDatetime | None = None
    against: Annotated[list[Against], Field(max_length=10)] = []


States = dict[str, dict[str, Any]]
STATES: Final[TypeAdapter[dict[str, StateLine]]] = TypeAdapter(dict[str, StateLine])


class VersionLine(_Line):
    """One write; a redacted one and a deletion say nothing of the content."""

    type: Literal["version"]
    id: VersionId
    memory_id: MemoryId
    version: Number
    operation: VersionOperation
    operations: Annotated[list[dict[str, Any]], Field(max_length=1000)] | None = None
    path: str | None = None
    content: str | None = None
    content_sha256: Sha256 | None = None
    block: bool = False
    states: States | None = None
    actor: By
    session_id: SessionId | None = None
    event_id: EventId | None = None
    created_at: AwareDatetime
    redacted_at: AwareDatetime | None = None
    redacted_by: Short | None = None


class MemoryLine(_Line):
    """What stands at a path; `version` and `version_id` are those of its last version, which stands before it."""

    type: Literal["memory"]
    id: MemoryId
    path: str
    content: str
    content_sha256: Sha256
    block: Short | None = None
    states: States | None = None
    version: Number
    version_id: VersionId
    created_at: AwareDatetime
    updated_at: AwareDatetime


class PassageLine(_Line):
    """A text that recall finds. Those of one session or document stand in their order."""

    type: Literal["passage"]
    id: PassageId
    session_id: SessionId | None = None
    event_id: EventId | None = None
    document_id: UUID | None = None
    role: Key
    text: Annotated[str, StringConstraints(min_length=1, max_length=100_000)]
    tags: Annotated[list[Key], Field(max_length=64)] = []
    metadata: Annotated[dict[Short, str | int | float | bool | None], Field(max_length=64)] = {}
    created_at: AwareDatetime


class EndLine(_Line):
    """The last line; `lines` counts those before it."""

    type: Literal["end"]
    lines: Annotated[int, Field(ge=1, strict=True)]


Line = HeaderLine | BlockLine | VersionLine | MemoryLine | PassageLine | EndLine
LINE: Final[TypeAdapter[Line]] = TypeAdapter(Annotated[Line, Field(discriminator="type")])
ORDER: Final[tuple[type[Line], ...]] = (HeaderLine, BlockLine, VersionLine, MemoryLine, PassageLine, EndLine)


def uuid(wire: str) -> UUID:
    """Return the UUID in a wire id that a line's pattern has checked."""
    return UUID(hex=wire.rpartition("_")[2])


def optional_uuid(wire: str | None) -> str | None:
    """Return the UUID in a wire id as text for Postgres; None stays None."""
    return None if wire is None else str(uuid(wire))


def moment(time: datetime | None) -> str | None:
    """Return a time as text for Postgres."""
    return None if time is None else time.isoformat()
