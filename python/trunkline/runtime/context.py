"""The conversation that a session's log amounts to: what the model has seen, what waits for it, what it waits for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import Any, Final

from trunkline.domain import ids
from trunkline.domain.events import Event

Message = dict[str, Any]
"""A message of the Anthropic wire: `{"role": "user" | "assistant" | "system", "content": [block, …]}`."""

STEP: Final = "span.model_request_start"
"""Marks in the log how far the model has read: it is shown what was said before, and what comes after is for later."""

_INPUTS: Final = frozenset({"user.message", "user.custom_tool_result", "system.message"})
_INTERRUPTED: Final = "This call was interrupted: it has no result."


class Conversation:
    """A session's events, taken in one after another.

    Memory tools are left out: the gateway carries them out within a model call and hides them from its caller.
    """

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.messages: list[Message] = []
        """What the model has been shown and has said."""
        self.queued: list[Event] = []
        """What clients sent since the model was last asked."""
        self.failures = 0
        """How often in a row the model call of the current step has failed."""
        self._asked = False
        self._calls: dict[str, str] = {}
        for event in events:
            self.add(event)

    def add(self, event: Event) -> None:
        """Take in the next event of the log."""
        match event.type:
            case kind if kind in _INPUTS:
                self.queued.append(event)
            case "user.interrupt":
                self.take_up()
                self._settle({})
                self._asked = False
            case "span.model_request_start":
                self.take_up()
                self._asked = True
            case "agent.message" | "agent.custom_tool_use":
                if not self._asked:  # a turn through the gateway, whose log has no steps
                    self.take_up()
                self._say(event)
                self.failures = 0
            case "span.model_request_end" if not event.payload.get("is_error"):
                self._asked = False
            case "session.error":
                self.failures += 1
            case "session.status_idle":
                self._asked, self.failures = False, 0
                if event.payload.get("stop_reason", {}).get("type") == "retries_exhausted":
                    self.take_up()  # the turn is dead; the next one starts afresh

    @property
    def waits_for(self) -> tuple[str, ...]:
        """The ids of the tool calls that the client has not answered yet."""
        answered = {self._call(event) for event in self.queued if event.type == "user.custom_tool_result"}
        return tuple(event_id for event_id, call in self._calls.items() if call not in answered)

    @property
    def wants_model(self) -> bool:
        """Whether the model is to be asked: something was said to it, or nobody knows what it answered."""
        open_calls = set(self._calls.values())
        said = any(event.type == "user.message" or self._answers(event, open_calls) for event in self.queued)
        return (self._asked or said) and not self.waits_for

    def take_up(self) -> None:
        """Show the model what waits for it: the results of its calls first, as its wire wants it."""
        results = {self._call(event): event.payload for event in self.queued if event.type == "user.custom_tool_result"}
        if results:
            self._settle(results)
        for event in self.queued:
            if event.type == "user.message":
                self._append("user", event.payload["content"])
            elif event.type == "system.message":
                self._append("system", event.payload["content"])
        self.queued = []

    def _settle(self, results: Mapping[str, Mapping[str, Any]]) -> None:
        """Give every open call its result; a call without one was interrupted."""
        blocks = []
        for call in self._calls.values():
            result = results.get(call, {"content": [{"type": "text", "text": _INTERRUPTED}], "is_error": True})
            block = {"type": "tool_result", "tool_use_id": call, "content": result.get("content", [])}
            blocks.append(block | ({"is_error": True} if result.get("is_error") else {}))
        self._calls = {}
        self._append("user", blocks)

    def _say(self, event: Event) -> None:
        """Add what the model said or called."""
        if event.type == "agent.message":
            content = event.payload["content"]
            self._append("assistant", [block for block in content if block["type"] == "text" and block["text"]])
            return
        event_id = ids.encode("sevt", event.id)
        call = event.payload.get("id", event_id)  # through the gateway a call keeps the id that its client knows
        given = event.payload["input"]
        use = {"type": "tool_use", "id": call, "name": event.payload["name"]}
        self._append("assistant", [use | {"input": given if isinstance(given, dict) else {}}])
        self._calls[event_id] = call

    def _answers(self, event: Event, calls: Set[str]) -> bool:
        return event.type == "user.custom_tool_result" and self._call(event) in calls

    def _call(self, result: Event) -> str:
        """Return the id under which the model knows the call that this result is of."""
        named = str(result.payload["custom_tool_use_id"])
        return self._calls.get(named, named)

    def _append(self, role: str, blocks: list[dict[str, Any]]) -> None:
        """Add blocks to the conversation; those of one side in a row are one message."""
        if not blocks:
            return
        if self.messages and self.messages[-1]["role"] == role:
            self.messages[-1]["content"] = [*self.messages[-1]["content"], *blocks]
        else:
            self.messages.append({"role": role, "content": blocks})
