"""Running an agent from Python: a session, what the agent says in it, and its functions carried out in this process."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from trunkline.client import embedded
from trunkline.client.event_stream import Event
from trunkline.errors import Unavailable
from trunkline.function_tools import FunctionTool, ToolCall, as_tool

if TYPE_CHECKING:
    from trunkline.client.agents import Agent
    from trunkline.client.client import AsyncTrunkline, Trunkline

_LONGEST: Final = 64 * 1024
"""Of a function's result, in characters; the rest the model is not told."""
Tools = Mapping[str, FunctionTool[Any, Any]]


@dataclass(frozen=True)
class Run:
    """What an agent did upon a message. `session_id` goes on with it: `agent.run("…", session_id=run.session_id)`."""

    text: str
    """What it said last."""
    session_id: str
    events: tuple[Event, ...]

    @property
    def stop_reason(self) -> dict[str, Any]:
        """Why it stopped: `end_turn`, or `requires_action` where a tool waits that is not one of its functions."""
        return self.events[-1].stop_reason if self.events else {}


def _tools(agent: Agent) -> Tools:
    """Return the agent's functions that may be carried out unasked, by name."""
    functions = [as_tool(one) for one in agent.tools if not isinstance(one, Mapping)]
    return {one.name: one for one in functions if one.permission_policy == "always_allow"}


def run(agent: Agent, text: str, client: Trunkline | None, *, user_id: str | None, session_id: str | None) -> Run:
    """Run an agent, as `Agent.run` tells."""
    from trunkline.client.client import Trunkline as Client  # noqa: PLC0415 - it has agents, which run

    if client is None:
        found = embedded.connection(os.environ)
        with Client(found.base_url, found.api_key) as own:
            return run(agent, text, own, user_id=user_id, session_id=session_id)
    tools = _tools(agent)
    applied = client.agents.apply(agent)
    session = session_id or client.sessions.create(applied.id, user_id=user_id).id
    events = list(client.sessions.say(session, text).events)
    while uses := _calls(events, tools):
        results = _in_thread(_results(tools, uses, applied.id, session, user_id))
        events += client.sessions.send_and_wait(session, *results).events
    return _ended(session, events)


async def run_async(
    agent: Agent, text: str, client: AsyncTrunkline | None, *, user_id: str | None, session_id: str | None
) -> Run:
    """Run an agent without keeping the event loop waiting."""
    from trunkline.client.client import AsyncTrunkline as Client  # noqa: PLC0415 - as above

    if client is None:
        found = await asyncio.to_thread(embedded.connection, os.environ)
        async with Client(found.base_url, found.api_key) as own:
            return await run_async(agent, text, own, user_id=user_id, session_id=session_id)
    tools = _tools(agent)
    applied = await client.agents.apply(agent)
    session = session_id or (await client.sessions.create(applied.id, user_id=user_id)).id
    events = list((await client.sessions.say(session, text)).events)
    while uses := _calls(events, tools):
        results = await _results(tools, uses, applied.id, session, user_id)
        events += (await client.sessions.send_and_wait(session, *results)).events
    return _ended(session, events)


def _calls(events: Sequence[Event], tools: Tools) -> list[Event]:
    """Return the calls that the agent waits for, where all of them are of its functions."""
    waiting = events[-1].stop_reason.get("event_ids") or () if events else ()
    uses = [event for event in events if event.id in waiting and event.type == "agent.custom_tool_use"]
    known = [use for use in uses if (use.model_extra or {}).get("name") in tools]
    return known if len(known) == len(waiting) else []


async def _results(
    tools: Tools, uses: Sequence[Event], agent_id: str, session_id: str, user_id: str | None
) -> list[dict[str, Any]]:
    """Carry out calls side by side, and return the events that answer them."""
    return await asyncio.gather(*(_result(tools, use, agent_id, session_id, user_id) for use in uses))


async def _result(tools: Tools, use: Event, agent_id: str, session_id: str, user_id: str | None) -> dict[str, Any]:
    """Carry out a call, and return the event that answers it: what went wrong is an answer too."""
    call = use.model_extra or {}
    function = tools[call["name"]]
    failed = False
    try:
        told = await asyncio.wait_for(
            function.run(ToolCall(use.id, session_id, agent_id, "", user_id), call.get("input") or {}),
            function.timeout_seconds,
        )
    except TimeoutError:
        told, failed = f"It did not end within {function.timeout_seconds:g} s.", True
    except Exception as error:  # noqa: BLE001 - whatever a function raises, the model is told and may try otherwise
        told, failed = f"{type(error).__name__}: {error}", True
    if len(told) > _LONGEST:
        told = f"{told[:_LONGEST]}\n[… {len(told) - _LONGEST} characters were cut here …]"
    content = [{"type": "text", "text": told}]
    return {
        "type": "user.custom_tool_result",
        "custom_tool_use_id": use.id,
        "content": content,
        **({"is_error": True} if failed else {}),
    }


def _in_thread(results: Coroutine[Any, Any, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Await on an event loop of its own: the program's thread may be inside one, as in a notebook."""
    found: list[list[dict[str, Any]]] = []
    thread = threading.Thread(target=lambda: found.append(asyncio.run(results)))
    thread.start()
    thread.join()
    return found[0]


def _ended(session_id: str, events: Sequence[Event]) -> Run:
    """Return the run. Raises Unavailable, with the reason, where the model could not be asked."""
    if events and events[-1].stop_reason.get("type") == "retries_exhausted":
        errors = [event for event in events if event.type == "session.error"]
        error = (errors[-1].model_extra or {}).get("error", {}) if errors else {}
        raise Unavailable(
            str(error.get("message", "The model could not be asked.")), details={"session_id": session_id}
        )
    said = [event.text() for event in events if event.type == "agent.message"]
    return Run(said[-1] if said else "", session_id, tuple(events))
