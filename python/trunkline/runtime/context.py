"""The conversation that a session's log amounts to: what the model has seen, what waits for it, what it waits for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from trunkline.domain import ids
from trunkline.domain.events import Event
from trunkline.domain.toolsets import mcp_tool_name
from trunkline.memory.render import estimate_tokens

Message = dict[str, Any]
"""A message of the Anthropic wire: `{"role": "user" | "assistant" | "system", "content": [block, …]}`."""

STEP: Final = "span.model_request_start"
"""Marks in the log how far the model has read: it is shown what was said before, and what comes after is for later."""

COMPACTED: Final = "agent.thread_context_compacted"
"""Says from which event on the conversation stands in prompts, and may sum up what comes before: `compaction.py`."""

USED: Final = "session.usage"
"""Tells what the session has used; after a stop for a limit, that it goes on with the calls that waited."""

_IMAGE_TOKENS: Final = 1600
"""Anthropic's (width x height) / 750, at the size to which larger images are scaled."""
_DOCUMENT_TOKENS: Final = 3000
"""Of a document whose text is not known here: the upper end of what Anthropic reckons for a page of a PDF."""
_INPUTS: Final = frozenset({"user.message", "user.custom_tool_result", "user.tool_result", "system.message"})
_SERVED: Final = frozenset({"agent.tool_use", "agent.mcp_tool_use"})
_DENIED: Final = "The user did not allow this call."
_INTERRUPTED: Final = "This call was interrupted: it has no result."


@dataclass(slots=True)
class ToolUse:
    """A call by the model that has no result yet."""

    event_id: str
    """Of its event, as the wire writes it."""
    type: str
    """Of its event."""
    call: str
    """The id under which the model knows it."""
    name: str
    """The model's name for the tool."""
    input: Mapping[str, Any]
    permission: str
    """`allow`, `ask` or `deny`, as it stands by now; of a tool of the client `allow`."""
    denial: str | None = None
    """What the model is told when a person did not allow it."""
    server: str | None = None
    """The MCP server that has the tool, by the agent's name for it."""


class Conversation:
    """A session's events, taken in one after another.

    Memory tools are left out: the gateway carries them out within a model call and hides them from its caller. Where
    tools run in an environment of the client's own (`self_hosted`), it sends the results of built-in tools too.
    """

    def __init__(self, events: Iterable[Event] = (), *, self_hosted: bool = False) -> None:
        self.messages: list[Message] = []
        """What the model has been shown and has said."""
        self.firsts: list[int] = []
        """The number of the event that each message began with."""
        self.tokens: list[int] = []
        """An estimate of each message's tokens."""
        self.kept_from = 0
        """The number of the event that prompts begin with: what is before has left them."""
        self.summary: str | None = None
        """What a model has made of the turns before `summed_up_to`."""
        self.summed_up_to = 0
        self._seq = 0
        self.queued: list[Event] = []
        """What clients sent since the model was last asked."""
        self.failures = 0
        """How often in a row the model call of the current step has failed."""
        self.step: Event | None = None
        """The step whose model call has no answer yet."""
        self.not_begun: frozenset[str] = frozenset()
        """The event ids of calls that a stop for a limit kept from being begun."""
        self._asked = False
        self._self_hosted = self_hosted
        self._calls: dict[str, ToolUse] = {}
        self._results: dict[str, Mapping[str, Any]] = {}
        for event in events:
            self.add(event)

    def add(self, event: Event) -> None:
        """Take in the next event of the log."""
        self._seq = event.seq
        match event.type:
            case kind if kind in _INPUTS:
                self.queued.append(event)
            case "user.interrupt":
                self.take_up()
                self._settle()
                self.step, self._asked = None, False
            case "span.model_request_start":
                self.take_up()
                self.step, self._asked = event, True
            case kind if kind == COMPACTED:
                self._compact(event)
            case "agent.tool_use" if "evaluated_permission" not in event.payload:
                pass  # of a memory tool, through the gateway
            case "agent.message" | "agent.custom_tool_use" | "agent.tool_use" | "agent.mcp_tool_use":
                if not self._asked:  # a turn through the gateway, whose log has no steps
                    self.take_up()
                self._say(event)
                self.failures = 0
            case "span.model_request_end":
                self.step, self._asked = None, self._asked and bool(event.payload.get("is_error"))
            case "session.error" if not _is_of_a_server(event):
                self.failures += 1
            case "session.status_idle":
                self._stop(event.payload.get("stop_reason", {}).get("type"))
            case _:
                self._hear_of_calls(event)

    @property
    def waits_for(self) -> tuple[str, ...]:
        """The ids of the tool calls that the client has not answered, or not allowed or denied yet."""
        return tuple(use.event_id for use in self._open() if use.permission == "ask" or self._is_the_clients(use))

    @property
    def to_carry_out(self) -> tuple[ToolUse, ...]:
        """The calls that the worker has to give a result, those that were denied among them."""
        return tuple(use for use in self._open() if use.permission != "ask" and not self._is_the_clients(use))

    @property
    def wants_model(self) -> bool:
        """Whether the model is to be asked: something was said to it, or nobody knows what it answered."""
        said = any(event.type == "user.message" for event in self.queued) or bool(self._answers())
        return (self._asked or said) and not self._open()

    def take_up(self) -> None:
        """Show the model what waits for it: the results of its calls first, as its wire wants it."""
        if self._answers():
            self._settle()
        for event in self.queued:
            if event.type == "user.message":
                self._append("user", event.payload["content"], event.seq)
            elif event.type == "system.message":
                self._append("system", event.payload["content"], event.seq)
        self.queued = []

    def _answers(self) -> dict[str, Mapping[str, Any]]:
        """Return the results of the model's last calls by their events' ids; the first one of a call counts."""
        named = {use.call: event_id for event_id, use in self._calls.items()}  # in logs of the gateway
        answers = {}
        for event in self.queued:
            if event.type.endswith("tool_result"):
                answers[named.get(_answered(event), _answered(event))] = event.payload
        return {event_id: result for event_id, result in (answers | self._results).items() if event_id in self._calls}

    def _open(self) -> list[ToolUse]:
        answers = self._answers()
        return [use for event_id, use in self._calls.items() if event_id not in answers]

    def _is_the_clients(self, use: ToolUse) -> bool:
        if use.type == "agent.custom_tool_use":
            return True
        return self._self_hosted and use.type == "agent.tool_use" and use.permission == "allow"

    def _stop(self, reason: str | None) -> None:
        """Take in that the turn has ended, or waits."""
        self.step, self.failures = None, 0
        # Stopped for a limit, a call of the model that failed is still to be tried again.
        self._asked = self._asked and reason == "budget_reached"
        if reason == "budget_reached":
            self.not_begun = frozenset(use.event_id for use in self.to_carry_out)
        elif reason == "retries_exhausted":
            self.take_up()  # the turn is dead; the next one starts afresh

    def _hear_of_calls(self, event: Event) -> None:
        """Take in what became of a call that the worker carries out, or that those which waited are begun."""
        if event.type == USED:
            self.not_begun = frozenset()
            return
        use = self._calls.get(_answered(event))
        if use is None:
            return
        if event.type in ("agent.tool_result", "agent.mcp_tool_result"):
            self._results[use.event_id] = event.payload
        elif event.type == "user.tool_confirmation" and use.permission == "ask":
            use.permission = event.payload["result"]
            if use.permission == "deny":
                use.denial = f"{_DENIED} {event.payload.get('deny_message') or ''}".strip()

    def _compact(self, event: Event) -> None:
        """Take in that older turns have left the prompts."""
        self.kept_from = event.payload["kept_from_seq"]
        if event.payload.get("summary") is not None:
            self.summary, self.summed_up_to = event.payload["summary"], self.kept_from
        if "model_request_start_id" in event.payload:
            self._asked = True  # the request that this names was for it: the model is still to be asked what was said

    def _settle(self) -> None:
        """Give every open call its result; a call without one was interrupted."""
        answers = self._answers()
        blocks = []
        for event_id, use in self._calls.items():
            result = answers.get(event_id, {"content": [{"type": "text", "text": _INTERRUPTED}], "is_error": True})
            block = {"type": "tool_result", "tool_use_id": use.call, "content": result.get("content", [])}
            blocks.append(block | ({"is_error": True} if result.get("is_error") else {}))
        self._calls, self._results = {}, {}
        self._append("user", blocks, self._seq)

    def _say(self, event: Event) -> None:
        """Add what the model said or called."""
        if event.type == "agent.message":
            content = event.payload["content"]
            said = [block for block in content if block["type"] == "text" and block["text"]]
            self._append("assistant", said, event.seq)
            return
        event_id = ids.encode("sevt", event.id)
        call = event.payload.get("id", event_id)  # through the gateway a call keeps the id that its client knows
        payload = event.payload
        given = payload["input"] if isinstance(payload["input"], dict) else {}
        name = payload["name"]
        server = payload["mcp_server_name"] if event.type == "agent.mcp_tool_use" else None
        if server is not None:
            name = mcp_tool_name(server, name)
        self._append("assistant", [{"type": "tool_use", "id": call, "name": name, "input": given}], event.seq)
        permission = payload["evaluated_permission"] if event.type in _SERVED else "allow"
        self._calls[event_id] = ToolUse(event_id, event.type, call, name, given, permission, server=server)

    def _append(self, role: str, blocks: list[dict[str, Any]], seq: int) -> None:
        """Add blocks to the conversation; those of one side in a row are one message."""
        if not blocks:
            return
        tokens = sum(map(_tokens, blocks))
        if self.messages and self.messages[-1]["role"] == role:
            self.messages[-1]["content"] = [*self.messages[-1]["content"], *blocks]
            self.tokens[-1] += tokens
        else:
            self.messages.append({"role": role, "content": blocks})
            self.firsts.append(seq)
            self.tokens.append(tokens)


def _is_of_a_server(error: Event) -> bool:
    """Tell whether it is an MCP server that failed: the turn goes on without it."""
    return str(error.payload["error"].get("type")).startswith("mcp_")


def _answered(result: Event) -> str:
    """Return the id of the call that a result is of."""
    payload = result.payload
    return str(payload.get("custom_tool_use_id") or payload.get("tool_use_id") or payload.get("mcp_tool_use_id"))


def _tokens(block: Mapping[str, Any]) -> int:
    """Estimate the tokens of a content block."""
    match block["type"]:
        case "text":
            return estimate_tokens(block["text"])
        case "tool_use":
            return estimate_tokens(block["name"]) + estimate_tokens(json.dumps(block["input"], ensure_ascii=False))
        case "tool_result" | "search_result":
            return sum(map(_tokens, block["content"]))
        case "document" if block.get("source", {}).get("type") == "text":
            return estimate_tokens(block["source"]["data"])
        case "document":
            return _DOCUMENT_TOKENS
        case _:
            return _IMAGE_TOKENS
