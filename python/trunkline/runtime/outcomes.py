"""What comes of a step, as events of the Managed Agents vocabulary.

They get their ids here, so that a step that is saved a second time is recognised.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from trunkline.domain import ids
from trunkline.domain.events import Event
from trunkline.runtime.context import COMPACTED, USED, ToolUse
from trunkline.runtime.model import ModelError, Reply
from trunkline.runtime.tools.tool import Result
from trunkline.runtime.tools.toolbox import News, RepositoryProblem, Toolbox
from trunkline.store.events import NewEvent
from trunkline.store.leases import Head, Tokens

_RESULTS: Final = {
    "agent.tool_use": ("agent.tool_result", "tool_use_id"),
    "agent.mcp_tool_use": ("agent.mcp_tool_result", "mcp_tool_use_id"),
}
_USAGE: Final = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step adds to the log: `events`, or only `closing` when the user interrupted it.

    `is_dead`: the turn ends here, whatever else was said meanwhile.
    """

    events: tuple[NewEvent, ...] = ()
    closing: tuple[NewEvent, ...] = ()
    tokens: Tokens = field(default_factory=Tokens)
    is_dead: bool = False
    is_refused: bool = False


NOTHING: Final = Outcome()
"""Of no step: what the log calls for is to be found out first."""


def replied(step: Event, reply: Reply, toolbox: Toolbox) -> Outcome:
    """Return the model's answer: its text (if there is any, or nothing else), then its calls of tools."""
    said = [_unusable(problem) for problem in toolbox.news()]
    if reply.text or not reply.calls:
        said.append(_new("agent.message", {"content": [{"type": "text", "text": reply.text}] if reply.text else []}))
    said += [_new(*toolbox.use(call.name, call.input)) for call in reply.calls]
    end = _end(step, reply.usage, is_error=False)
    return Outcome((*said, end), (end,), _tokens(reply), is_refused=reply.refused)


def carried_out(finished: Iterable[tuple[ToolUse, Result]]) -> Outcome:
    """Return the results of tool calls; they are told even when the user interrupted the agent meanwhile."""
    results = []
    for use, result in finished:
        kind, name = _RESULTS[use.type]
        payload = {
            name: use.event_id,
            "content": [dict(block) for block in result.content],
            "is_error": result.is_error,
        }
        results.append(_new(kind, payload))
    return Outcome(tuple(results), tuple(results))


def failed(step: Event, error: ModelError, *, exhausted: bool) -> Outcome:
    """Return the failure of a model call; unless that is final, the next step tries again."""
    closing = (_end(step, {}, is_error=True), _error(error.type, error.message, exhausted=exhausted))
    return Outcome(closing, closing, is_dead=exhausted)


def interrupted(step: Event) -> Outcome:
    """Return the end of a step whose answer the user did not want any more."""
    closing = (_end(step, {}, is_error=True),)
    return Outcome(closing, closing)


def broken(step: Event | None) -> Outcome:
    """Return the end of a turn in which the runtime itself failed."""
    error = _error("unknown_error", "The turn failed inside Trunkline; the worker's log says why.", exhausted=True)
    closing = (error,) if step is None else (_end(step, {}, is_error=True), error)
    return Outcome(closing, closing, is_dead=True)


def compacted(kept_from: int) -> NewEvent:
    """Return the event by which turns before event `kept_from` leave the prompts."""
    return _new(COMPACTED, {"kept_from_seq": kept_from})


def summed_up(step: Event, kept_from: int, model: str, reply: Reply | None) -> Outcome:
    """Return a step that only summed up the turns before event `kept_from`; None: they leave without a summary."""
    end = _end(step, {} if reply is None else reply.usage, is_error=reply is None)
    payload: dict[str, Any] = {
        "kept_from_seq": kept_from,
        "model_request_start_id": ids.encode("sevt", step.id),
        "model": model,
    }
    if reply is None:
        return Outcome((end, _new(COMPACTED, payload)), (end,))
    return Outcome((end, _new(COMPACTED, payload | {"summary": reply.text.strip()})), (end,), _tokens(reply))


def idle(stop_reason: Mapping[str, object]) -> NewEvent:
    """Return the event that ends a turn."""
    return _new("session.status_idle", {"stop_reason": dict(stop_reason)})


def used(head: Head, tokens: Tokens, at: datetime) -> NewEvent:
    """Return the event that tells what the session has used, with what its head does not count yet."""
    usage = {
        "input_tokens": head.input_tokens + tokens.input,
        "output_tokens": head.output_tokens + tokens.output,
        "cache_read_input_tokens": head.cached_tokens + tokens.cached,
        **head.after(tokens).to_wire(at),
    }
    return _new(USED, {"usage": usage, "budget": None if head.budget is None else dict(head.budget)})


def _end(step: Event, usage: Mapping[str, int], *, is_error: bool) -> NewEvent:
    counts = {name: usage.get(name, 0) for name in _USAGE}
    start = ids.encode("sevt", step.id)
    return _new(
        "span.model_request_end", {"model_request_start_id": start, "model_usage": counts, "is_error": is_error}
    )


def _tokens(reply: Reply) -> Tokens:
    given, said, cached = (reply.usage.get(name, 0) for name in _USAGE[:3])
    return Tokens(given, said, cached, 1, reply.cost_nano, reply.paid_as)


def _error(kind: str, message: str, *, exhausted: bool) -> NewEvent:
    status = {"type": "exhausted" if exhausted else "retrying"}
    return _new("session.error", {"error": {"type": kind, "message": message, "retry_status": status}})


def _unusable(problem: News) -> NewEvent:
    if isinstance(problem, RepositoryProblem):
        error = {"type": problem.kind, "repository_url": problem.url, "message": problem.message}
        return _new("session.error", {"error": {**error, "retry_status": {"type": "retrying"}}})
    kind = "mcp_authentication_failed_error" if problem.is_refusal else "mcp_connection_failed_error"
    error = {"type": kind, "mcp_server_name": problem.server, "message": problem.message}
    return _new("session.error", {"error": {**error, "retry_status": {"type": "retrying"}}})


def _new(kind: str, payload: dict[str, Any]) -> NewEvent:
    return NewEvent(ids.new(), kind, _storable(payload), None)


def _storable(value: Any) -> Any:
    """Replace what Postgres does not take in a text: NUL, and halves of surrogate pairs."""
    if isinstance(value, str):
        whole = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return whole.replace("\0", "\N{REPLACEMENT CHARACTER}")
    if isinstance(value, dict):
        return {_storable(key): _storable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_storable(item) for item in value]
    return value
