"""Carrying out what the model calls: at the same time, each within its time, and whatever happens with a result."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from trunkline.domain import ids
from trunkline.function_tools import ToolCall
from trunkline.runtime.context import ToolUse
from trunkline.runtime.tools.output import bounded, cut
from trunkline.runtime.tools.tool import Result, Tool, ToolError, text
from trunkline.runtime.tools.toolbox import Toolbox
from trunkline.store.leases import Lease, Task

_logger = logging.getLogger(__name__)

AT_ONCE: Final = 16
"""Calls of one session at one time."""
_STOPPING_SECONDS: Final = 10.0
_LONGEST_ERROR: Final = 4000
INTERRUPTED: Final = text("The user interrupted this call; whether it was carried out is unknown.", is_error=True)
UNKNOWN: Final = text(
    "The worker was lost while it carried out this call. Whether it was carried out is unknown, and it was not tried "
    "again because that could do it twice: find out before you call it again.",
    is_error=True,
)

Finished = tuple[ToolUse, Result]


class Calls:
    """The calls of one claim of a session. Used on one event loop."""

    def __init__(self, lease: Lease, task: Task) -> None:
        self._lease = lease
        self._task = task
        self._running: dict[str, asyncio.Task[Finished]] = {}
        self._places = asyncio.Semaphore(AT_ONCE)
        self.first_seen: set[str] = set()
        """The event ids of calls that this claim has made or heard to be allowed: no one else has begun them."""

    async def finished(self, uses: Sequence[ToolUse], toolbox: Toolbox) -> list[Finished]:
        """Carry out calls, and return those that are done as soon as there are any; others go on meanwhile."""
        for use in uses:
            if use.event_id not in self._running:
                self._running[use.event_id] = asyncio.create_task(self._carry_out(use, toolbox))
        done, _ = await asyncio.wait(self._running.values(), return_when=asyncio.FIRST_COMPLETED)
        self._running = {name: task for name, task in self._running.items() if task not in done}
        return [task.result() for task in done]

    async def stop(self) -> None:
        """End the calls that are under way, and wait until they have ended."""
        running, self._running = self._running, {}
        for task in running.values():
            task.cancel()
        if running:
            _, left = await asyncio.wait(running.values(), timeout=_STOPPING_SECONDS)
            if left:
                _logger.warning("%d tools do not end though they were told to", len(left))

    async def _carry_out(self, use: ToolUse, toolbox: Toolbox) -> Finished:
        tool = toolbox.find(use.name)
        if use.denial is not None:
            return use, text(use.denial, is_error=True)
        if tool is None or use.permission == "deny":
            return use, text(toolbox.why_not(use), is_error=True)
        if not tool.idempotent and use.event_id not in self.first_seen:
            return use, UNKNOWN
        self.first_seen.discard(use.event_id)
        async with self._places:
            return use, await self._result(tool, use)

    async def _result(self, tool: Tool, use: ToolUse) -> Result:
        call = ToolCall(
            id=use.event_id,
            session_id=ids.encode("sesn", self._lease.session_id),
            agent_id=ids.encode("agent", self._task.agent_id),
            tenant_id=ids.encode("tnt", self._lease.tenant_id),
            user_id=self._task.user_id,
        )
        try:
            async with asyncio.timeout(tool.timeout_seconds) as limit:
                return bounded(await tool.run(call, use.input))
        except ToolError as error:
            return text(cut(str(error), _LONGEST_ERROR), is_error=True)
        except TimeoutError as error:
            if limit.expired():
                return text(f"The tool did not end within {tool.timeout_seconds:g} s and was stopped.", is_error=True)
            return _failed(tool, error)
        except Exception as error:  # noqa: BLE001 (whatever a tool raises is told to the model)
            return _failed(tool, error)


def _failed(tool: Tool, error: Exception) -> Result:
    _logger.info("the tool %s failed", tool.name, exc_info=error)
    return text(cut(f"{type(error).__name__}: {error}", _LONGEST_ERROR), is_error=True)
