"""Events: a session is the list of them. `seq` counts from 1 without a gap within a session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, RootModel, model_validator

from trunkline.domain import ids
from trunkline.domain.content import MessageContent, ResultContent, Text
from trunkline.domain.times import to_wire
from trunkline.errors import InvalidRequest, NotServed

SENT_TYPES: Final = (
    "user.message",
    "user.interrupt",
    "user.tool_confirmation",
    "user.custom_tool_result",
    "user.tool_result",
    "system.message",
)
"""What a client may send; all other types are written by the gateway and the runtime."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class UserMessage(_Frozen):
    """The user says something."""

    type: Literal["user.message"]
    content: Annotated[tuple[MessageContent, ...], Field(min_length=1)]


class UserInterrupt(_Frozen):
    """The agent is to stop."""

    type: Literal["user.interrupt"]


class UserToolConfirmation(_Frozen):
    """A person allows or denies a tool call that waits for it."""

    type: Literal["user.tool_confirmation"]
    tool_use_id: str
    result: Literal["allow", "deny"]
    deny_message: str | None = None

    @model_validator(mode="after")
    def _reason_for_denial(self) -> UserToolConfirmation:
        if self.deny_message is not None and self.result != "deny":
            raise ValueError("`deny_message` goes with result 'deny' alone")
        return self


class UserCustomToolResult(_Frozen):
    """What a tool of the client's own gave."""

    type: Literal["user.custom_tool_result"]
    custom_tool_use_id: str
    content: tuple[ResultContent, ...] = ()
    is_error: bool | None = None


class UserToolResult(_Frozen):
    """What a built-in tool gave that the client carried out."""

    type: Literal["user.tool_result"]
    tool_use_id: str
    content: tuple[ResultContent, ...] = ()
    is_error: bool | None = None


class SystemMessage(_Frozen):
    """What the operator of the agent says, beside the message or result that it follows."""

    type: Literal["system.message"]
    content: Annotated[tuple[Text, ...], Field(min_length=1)]


def _known(given: Any) -> Any:
    """Tell an event that is not served, or not the client's to write, from one that does not exist."""
    if isinstance(given, dict):
        kind = given.get("type")
        if kind == "user.define_outcome":
            raise NotServed("outcomes (`user.define_outcome`)", param="type")
        if kind == "user.interrupt" and given.get("session_thread_id") is not None:
            raise NotServed("threads (`session_thread_id`)", param="session_thread_id")
        if isinstance(kind, str) and kind.partition(".")[0] in ("agent", "session", "span", "workflow_run"):
            raise ValueError(f"events of type {kind!r} are written by Trunkline; clients send {', '.join(SENT_TYPES)}")
        return {key: value for key, value in given.items() if value is not None}
    return given


_Sent = Annotated[
    UserMessage | UserInterrupt | UserToolConfirmation | UserCustomToolResult | UserToolResult | SystemMessage,
    Field(discriminator="type"),
]


class EventRequest(RootModel[_Sent]):
    """One event that a client sends."""

    model_config = ConfigDict(frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _served(cls, given: Any) -> Any:
        return _known(given)

    @property
    def type(self) -> str:
        """The event's type."""
        return self.root.type

    @property
    def payload(self) -> dict[str, Any]:
        """The event as it is stored: all but its type."""
        return self.root.model_dump(mode="json", exclude={"type"}, exclude_none=True)

    @property
    def answers(self) -> tuple[str, tuple[str, ...]] | None:
        """The id of the event that this one answers, and the types it may have; None: it answers none."""
        match self.root:
            case UserCustomToolResult(custom_tool_use_id=use):
                return use, ("agent.custom_tool_use",)
            case UserToolConfirmation(tool_use_id=use):
                return use, ("agent.tool_use", "agent.mcp_tool_use")
            case UserToolResult(tool_use_id=use):
                return use, ("agent.tool_use",)
            case _:
                return None

    @property
    def starts_work(self) -> bool:
        """Whether the agent has something to do after it."""
        return not isinstance(self.root, UserInterrupt)


class EventsRequest(_Frozen):
    """Events that a client sends together: all are appended, or none."""

    events: Annotated[tuple[EventRequest, ...], Field(min_length=1, max_length=100)]


def check_order(events: Sequence[EventRequest]) -> None:
    """Raise InvalidRequest unless a `system.message`, at most one, is last and follows a message or a result."""
    before = ("user.message", "user.tool_result", "user.custom_tool_result")
    for index, event in enumerate(events):
        if event.type == "system.message" and (
            index != len(events) - 1 or index == 0 or events[index - 1].type not in before
        ):
            raise InvalidRequest(
                f"A system.message is the last event of its request and follows one of {', '.join(before)}.",
                param=f"events[{index}]",
            )


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a session."""

    id: UUID
    seq: int
    type: str
    payload: Mapping[str, Any]
    created_at: datetime
    processed_at: datetime | None

    def to_wire(self) -> dict[str, Any]:
        """Return the Managed Agents event, with our `seq` and `created_at`.

        `processed_at` is null only while an event that a client sent waits for the agent.
        """
        waits = self.type in SENT_TYPES
        return {
            **self.payload,
            "id": ids.encode("sevt", self.id),
            "type": self.type,
            "seq": self.seq,
            "created_at": to_wire(self.created_at),
            "processed_at": to_wire(self.processed_at if waits else self.processed_at or self.created_at),
        }
