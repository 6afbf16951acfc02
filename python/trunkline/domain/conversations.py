"""Conversations: a session as OpenAI's clients see one, its messages and tool calls as items."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel, model_validator

from trunkline.domain import ids
from trunkline.domain.agents import Metadata
from trunkline.domain.events import Event
from trunkline.domain.redaction import Redactor
from trunkline.domain.sessions import Session
from trunkline.errors import NotFound, NotServed

ITEM_TYPES: Final = ("user.message", "agent.message", "agent.custom_tool_use", "user.custom_tool_result")
"""The events that are items."""
_PREFIXES: Final[Mapping[str, ids.Prefix]] = {
    "user.message": "msg",
    "agent.message": "msg",
    "agent.custom_tool_use": "fc",
    "user.custom_tool_result": "fco",
}
EMPTY: Final = bytes(32)
"""The chain of a conversation without a message."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TextPart(_Frozen):
    """A text that was said."""

    type: Literal["input_text", "output_text", "text"]
    text: Annotated[str, Field(min_length=1)]


class MessageItem(BaseModel):
    """A message to be kept in a conversation. Members of a given item that its text does not need are let be."""

    model_config = ConfigDict(frozen=True)

    type: Literal["message"] = "message"
    role: Literal["user", "assistant"]
    content: Annotated[str, Field(min_length=1)] | Annotated[tuple[TextPart, ...], Field(min_length=1)]

    @property
    def event_type(self) -> str:
        """The event that it is kept as."""
        return "user.message" if self.role == "user" else "agent.message"

    @property
    def payload(self) -> dict[str, Any]:
        """The event's payload."""
        texts = [self.content] if isinstance(self.content, str) else [part.text for part in self.content]
        return {"content": [{"type": "text", "text": text} for text in texts]}


class ItemRequest(RootModel[MessageItem]):
    """An item of a conversation: a message of text."""

    model_config = ConfigDict(frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _served(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        kind, role = given.get("type", "message"), given.get("role")
        if kind != "message":
            raise NotServed(f"items of type {kind!r} that are added by themselves (they come with responses)")
        if role in ("system", "developer"):
            raise NotServed("items of the role 'system' (an agent has instructions; a response takes `instructions`)")
        parts = given.get("content")
        for part in parts if isinstance(parts, list) else ():
            if isinstance(part, dict) and part.get("type") in ("input_image", "input_file", "refusal"):
                raise NotServed(f"parts of type {part['type']!r} in items that are added by themselves")
            if isinstance(part, dict):
                part.pop("annotations", None)
                part.pop("logprobs", None)
        return given


class ItemsRequest(_Frozen):
    """Items to add at the end, all or none."""

    items: Annotated[tuple[ItemRequest, ...], Field(min_length=1, max_length=20)]


class ConversationRequest(_Frozen):
    """A new conversation."""

    items: Annotated[tuple[ItemRequest, ...], Field(max_length=20)] | None = None
    metadata: Metadata | None = None


class ConversationUpdate(_Frozen):
    """The metadata that a conversation has from now on."""

    metadata: Metadata


@dataclass(frozen=True, slots=True)
class Said:
    """An event that is an item; `chain` is set on the last of a message: the hash of the conversation up to it."""

    seq: int
    type: str
    payload: Mapping[str, Any]
    chain: bytes | None


def to_wire(session: Session) -> dict[str, Any]:
    """Return a session as OpenAI's `conversation`."""
    return {
        "id": ids.encode("conv", session.id),
        "object": "conversation",
        "created_at": int(session.created_at.timestamp()),
        "metadata": dict(session.metadata),
    }


def item_id(event: Event) -> str:
    """Return the id of the item that an event is."""
    return ids.encode(_PREFIXES[event.type], event.id)


def item_to_wire(event: Event) -> dict[str, Any]:
    """Return an event as an item of OpenAI's."""
    payload: Mapping[str, Any] = event.payload
    item: dict[str, Any] = {"id": item_id(event), "status": "completed"}
    match event.type:
        case "user.message":
            return item | {"type": "message", "role": "user", "content": [_input(part) for part in payload["content"]]}
        case "agent.message":
            said = [
                {"type": "output_text", "text": part["text"], "annotations": [], "logprobs": []}
                for part in payload["content"]
                if "text" in part
            ]
            return item | {"type": "message", "role": "assistant", "content": said}
        case "agent.custom_tool_use":
            given = payload["input"]
            arguments = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
            call = payload.get("id") or ids.encode("sevt", event.id)
            return item | {"type": "function_call", "call_id": call, "name": payload["name"], "arguments": arguments}
        case _:
            output = "".join(part.get("text", "") for part in payload.get("content", ()))
            call = payload["custom_tool_use_id"]
            return item | {"type": "function_call_output", "call_id": call, "output": output}


def event_id_of(text: str) -> Any:
    """Return the id of the event that is the item of this id. Raises NotFound."""
    prefix = text.partition("_")[0]
    for known in ("msg", "fc", "fco"):
        if prefix == known:
            return ids.decode(known, text)
    raise NotFound(f"There is no item {text[:80]!r} in this conversation.", code="item_not_found")


def chains(log: Sequence[Said], *, known_up_to: int, redactor: Redactor | None) -> list[bytes | None] | None:
    """Return the chain of each event; None where one cannot be told from what the log keeps.

    It is what the gateway makes of the messages when it goes on with the conversation
    (`crates/gateway/src/conversation`): SHA-256 of the chain before and the message's normal form. Those of events up
    to the number `known_up_to` are as kept. `redactor` is the log's. What an assistant says in several events in a row
    is one message, whose chain is the last one's.
    """
    found: list[bytes | None] = [None] * len(log)
    before = EMPTY
    start = 0
    for end in range(1, len(log) + 1):
        if end < len(log) and log[start].type == log[end].type == "agent.message":
            continue
        kept = log[end - 1].chain if log[end - 1].seq <= known_up_to else None
        if kept is None:
            texts = [_text(said) for said in log[start:end]]
            if None in texts or _beside_calls(log, start, end):
                return None
            role = b"u" if log[start].type == "user.message" else b"a"
            text = "".join(text or "" for text in texts)
            normal = role + b"x" + (text if redactor is None else redactor.text(text)).encode() + b"\xff"
            kept = hashlib.sha256(before + normal).digest()
        before = found[end - 1] = kept
        start = end
    return found


def _beside_calls(log: Sequence[Said], start: int, end: int) -> bool:
    """Tell whether the assistant's texts here are one message with calls of tools."""
    if log[start].type != "agent.message":
        return False
    beside = [*log[max(start - 1, 0) : start], *log[end : end + 1]]
    return any(said.type == "agent.custom_tool_use" for said in beside)


def _text(said: Said) -> str | None:
    if said.type not in ("user.message", "agent.message"):
        return None
    parts = said.payload["content"]
    if not parts or any(part.get("type") != "text" for part in parts):
        return None
    return "".join(part["text"] for part in parts) or None


def _input(part: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a user said; of what the log does not keep, its kind alone."""
    if "text" in part:
        return {"type": "input_text", "text": part["text"]}
    if part.get("type") == "image":
        source = part.get("source") or {}
        return {"type": "input_image", "detail": "auto", "image_url": source.get("url")}
    return {"type": "input_file"}
