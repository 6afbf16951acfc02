from __future__ import annotations

from typing import Any, NoReturn

from anthropic import (
    Anthropic,
    APIStatusError,
    AsyncAnthropic,
    BadRequestError,
    ConflictError,
    NotFoundError,
    PermissionDeniedError,
)
from anthropic.lib.tools import BetaAbstractMemoryTool, BetaAsyncAbstractMemoryTool, ToolError
from anthropic.types.beta import (
    BetaCacheControlEphemeralParam,
    BetaMemoryTool20250818CreateCommand,
    BetaMemoryTool20250818DeleteCommand,
    BetaMemoryTool20250818InsertCommand,
    BetaMemoryTool20250818RenameCommand,
    BetaMemoryTool20250818StrReplaceCommand,
    BetaMemoryTool20250818ViewCommand,
)

from trunkline.domain.memory_tool import Call, CommandRefused, read_command, steps_of
from trunkline.errors import Conflict, Forbidden, InvalidRequest, NotFound, TrunklineError


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
        try:
            steps = steps_of(read_command(input))
            call = next(steps)
            while True:
                try:
                    answer = self._answer(call)
                except (APIStatusError, UnicodeEncodeError) as error:
                    call = steps.throw(_ours(error))
                else:
                    call = steps.send(answer)
        except StopIteration as end:
            return str(end.value)
        except (CommandRefused, TrunklineError) as error:
            _refuse(error)

    def view(self, command: BetaMemoryTool20250818ViewCommand) -> str:
        """Return a file with line numbers, or what is in a directory."""
        return self.call(command.to_dict())

    def create(self, command: BetaMemoryTool20250818CreateCommand) -> str:
        """Make a file where there is none."""
        return self.call(command.to_dict())

    def str_replace(self, command: BetaMemoryTool20250818StrReplaceCommand) -> str:
        """Replace a text that occurs once."""
        return self.call(command.to_dict())

    def insert(self, command: BetaMemoryTool20250818InsertCommand) -> str:
        """Insert lines after a line."""
        return self.call(command.to_dict())

    def delete(self, command: BetaMemoryTool20250818DeleteCommand) -> str:
        """Delete a file, or a directory with all that is in it; its versions stay readable."""
        return self.call(command.to_dict())

    def rename(self, command: BetaMemoryTool20250818RenameCommand) -> str:
        """Move a file, or a directory, memory by memory."""
        return self.call(command.to_dict())

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
        try:
            steps = steps_of(read_command(input))
            call = next(steps)
            while True:
                try:
                    answer = await self._answer(call)
                except (APIStatusError, UnicodeEncodeError) as error:
                    call = steps.throw(_ours(error))
                else:
                    call = steps.send(answer)
        except StopIteration as end:
            return str(end.value)
        except (CommandRefused, TrunklineError) as error:
            _refuse(error)

    async def view(self, command: BetaMemoryTool20250818ViewCommand) -> str:
        """Return a file with line numbers, or what is in a directory."""
        return await self.call(command.to_dict())

    async def create(self, command: BetaMemoryTool20250818CreateCommand) -> str:
        """Make a file where there is none."""
        return await self.call(command.to_dict())

    async def str_replace(self, command: BetaMemoryTool20250818StrReplaceCommand) -> str:
        """Replace a text that occurs once."""
        return await self.call(command.to_dict())

    async def insert(self, command: BetaMemoryTool20250818InsertCommand) -> str:
        """Insert lines after a line."""
        return await self.call(command.to_dict())

    async def delete(self, command: BetaMemoryTool20250818DeleteCommand) -> str:
        """Delete a file, or a directory with all that is in it; its versions stay readable."""
        return await self.call(command.to_dict())

    async def rename(self, command: BetaMemoryTool20250818RenameCommand) -> str:
        """Move a file, or a directory, memory by memory."""
        return await self.call(command.to_dict())

    async def _answer(self, call: Call) -> Any:
        return await getattr(self._memories, call.method)(memory_store_id=self._store, **call.arguments)


def _ours(error: APIStatusError | UnicodeEncodeError) -> Exception:
    """Return the error that a command's steps know for one of the SDK's, its cause; others as they are."""
    if isinstance(error, UnicodeEncodeError):
        return _caused(InvalidRequest("The text holds half of a surrogate pair, which cannot be stored."), error)
    told = error.body.get("error") if isinstance(error.body, dict) else None
    details = told if isinstance(told, dict) else {}
    message = str(details.get("message") or error.message)
    match error:
        case NotFoundError():
            return _caused(NotFound(message), error)
        case ConflictError():
            return _caused(Conflict(message, details=details), error)
        case BadRequestError():
            return _caused(InvalidRequest(message), error)
        case PermissionDeniedError():
            return _caused(Forbidden(message), error)
    return error


def _caused(error: TrunklineError, cause: Exception) -> TrunklineError:
    error.__cause__ = cause
    return error


def _refuse(error: CommandRefused | TrunklineError) -> NoReturn:
    """Raise what the model can mend as ToolError, and that the store is not there as the SDK said it."""
    if isinstance(error, NotFound) and isinstance(error.__cause__, NotFoundError):
        raise error.__cause__
    raise ToolError(str(error) if isinstance(error, CommandRefused) else f"Error: {error.message}") from error
