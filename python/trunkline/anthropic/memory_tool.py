from __future__ import annotations

from typing import Any

from anthropic import Anthropic, APIStatusError, AsyncAnthropic
from anthropic.lib.tools import BetaAbstractMemoryTool, BetaAsyncAbstractMemoryTool
from anthropic.types.beta import (
    BetaCacheControlEphemeralParam,
    BetaMemoryTool20250818CreateCommand,
    BetaMemoryTool20250818DeleteCommand,
    BetaMemoryTool20250818InsertCommand,
    BetaMemoryTool20250818RenameCommand,
    BetaMemoryTool20250818StrReplaceCommand,
    BetaMemoryTool20250818ViewCommand,
)

from trunkline.anthropic.commands import Call, read_command, refuse, steps_of


class MemoryTool(BetaAbstractMemoryTool):
    """The memory tool over one store: `client.beta.messages.tool_runner(tools=[MemoryTool(client, store_id)], …)`.

    `client` is an `anthropic.Anthropic` whose base URL is Trunkline's and whose key has the scope `memory`. What the
    model asked wrongly becomes a result that it can read; a store that is not there, or the network, raises the
    SDK's errors.
    """

    def __init__(
        self, client: Anthropic, memory_store_id: str, *, cache_control: BetaCacheControlEphemeralParam | None = None
    ) -> None:
        super().__init__(cache_control=cache_control)
        self._memories = client.beta.memory_stores.memories
        self._store = memory_store_id

    def call(self, input: object) -> str:  # noqa: A002 - the SDK's name
        """Carry out a command as the model gave it. Raises ToolError."""
        return self._carry_out(read_command(input))

    def view(self, command: BetaMemoryTool20250818ViewCommand) -> str:
        """Return a file with line numbers, or what is in a directory."""
        return self._carry_out(command)

    def create(self, command: BetaMemoryTool20250818CreateCommand) -> str:
        """Make a file where there is none."""
        return self._carry_out(command)

    def str_replace(self, command: BetaMemoryTool20250818StrReplaceCommand) -> str:
        """Replace a text that occurs once."""
        return self._carry_out(command)

    def insert(self, command: BetaMemoryTool20250818InsertCommand) -> str:
        """Insert lines after a line."""
        return self._carry_out(command)

    def delete(self, command: BetaMemoryTool20250818DeleteCommand) -> str:
        """Delete a file, or a directory with all that is in it; its versions stay readable."""
        return self._carry_out(command)

    def rename(self, command: BetaMemoryTool20250818RenameCommand) -> str:
        """Move a file, or a directory, memory by memory."""
        return self._carry_out(command)

    def _carry_out(self, command: object) -> str:
        steps = steps_of(command)
        try:
            call = next(steps)
            while True:
                try:
                    answer = self._answer(call)
                except (APIStatusError, UnicodeEncodeError) as error:
                    call = steps.throw(error)
                else:
                    call = steps.send(answer)
        except StopIteration as end:
            return str(end.value)
        except (APIStatusError, UnicodeEncodeError) as error:
            refuse(error)

    def _answer(self, call: Call) -> Any:
        return getattr(self._memories, call.method)(memory_store_id=self._store, **call.arguments)


class AsyncMemoryTool(BetaAsyncAbstractMemoryTool):
    """The same for `anthropic.AsyncAnthropic`."""

    def __init__(
        self,
        client: AsyncAnthropic,
        memory_store_id: str,
        *,
        cache_control: BetaCacheControlEphemeralParam | None = None,
    ) -> None:
        super().__init__(cache_control=cache_control)
        self._memories = client.beta.memory_stores.memories
        self._store = memory_store_id

    async def call(self, input: object) -> str:  # noqa: A002 - the SDK's name
        """Carry out a command as the model gave it. Raises ToolError."""
        return await self._carry_out(read_command(input))

    async def view(self, command: BetaMemoryTool20250818ViewCommand) -> str:
        """Return a file with line numbers, or what is in a directory."""
        return await self._carry_out(command)

    async def create(self, command: BetaMemoryTool20250818CreateCommand) -> str:
        """Make a file where there is none."""
        return await self._carry_out(command)

    async def str_replace(self, command: BetaMemoryTool20250818StrReplaceCommand) -> str:
        """Replace a text that occurs once."""
        return await self._carry_out(command)

    async def insert(self, command: BetaMemoryTool20250818InsertCommand) -> str:
        """Insert lines after a line."""
        return await self._carry_out(command)

    async def delete(self, command: BetaMemoryTool20250818DeleteCommand) -> str:
        """Delete a file, or a directory with all that is in it; its versions stay readable."""
        return await self._carry_out(command)

    async def rename(self, command: BetaMemoryTool20250818RenameCommand) -> str:
        """Move a file, or a directory, memory by memory."""
        return await self._carry_out(command)

    async def _carry_out(self, command: object) -> str:
        steps = steps_of(command)
        try:
            call = next(steps)
            while True:
                try:
                    answer = await self._answer(call)
                except (APIStatusError, UnicodeEncodeError) as error:
                    call = steps.throw(error)
                else:
                    call = steps.send(answer)
        except StopIteration as end:
            return str(end.value)
        except (APIStatusError, UnicodeEncodeError) as error:
            refuse(error)

    async def _answer(self, call: Call) -> Any:
        return await getattr(self._memories, call.method)(memory_store_id=self._store, **call.arguments)
