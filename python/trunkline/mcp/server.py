from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal, Protocol

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import BaseModel, ConfigDict, Field

from trunkline.client import AsyncTrunkline
from trunkline.errors import TrunklineError

_INSTRUCTIONS = (
    "What is known about the user and earlier conversations. Read the blocks before you answer, search for what was "
    "said before, and save what you learn as soon as the user tells it."
)


class Operation(BaseModel):
    """One change of a field of a block."""

    model_config = ConfigDict(extra="forbid")

    op: Literal["set", "append", "remove", "merge", "increment"]
    block: str = Field(description="A block, as `read` names it.")
    field: str = Field(description="A field of the block, or a path such as preferences.colour.")
    value: Any = Field(None, description="The new value, item or keys, of the type that the block's field says.")
    expect_sha256: str | None = Field(None, description="Only write if the block still has this content_sha256.")


class Answer(Protocol):
    """What a memory tool told the model; `is_error` when the call was refused."""

    @property
    def content(self) -> str:
        """The text."""

    @property
    def is_error(self) -> bool:
        """Whether it says what was wrong."""


CarryOut = Callable[[str, dict[str, Any]], Awaitable[Answer]]
"""Carries out a memory tool by its name, with its input. May raise TrunklineError."""


def memory_server(carry_out: CarryOut) -> MCPServer:
    """Return a server with the tools `search`, `read` and `update` over the memory that `carry_out` reaches."""
    server = MCPServer("trunkline", instructions=_INSTRUCTIONS)

    async def call(name: str, given: dict[str, Any]) -> str:
        try:
            answer = await carry_out(name, given)
        except TrunklineError as error:
            raise ToolError(error.message) from error
        if answer.is_error:
            raise ToolError(answer.content)
        return answer.content

    async def search(
        query: Annotated[str, Field(description="Words that the passage is likely to contain.")],
        limit: Annotated[int, Field(ge=1, description="The most passages to return.")] = 10,
    ) -> str:
        return await call("memory_search", {"query": query, "limit": limit})

    async def read(
        block: Annotated[str | None, Field(description="Leave out to read all blocks.")] = None,
    ) -> str:
        return await call("memory_read", {} if block is None else {"block": block})

    async def update(operations: list[Operation]) -> str:
        return await call(
            "memory_update", {"operations": [operation.model_dump(exclude_unset=True) for operation in operations]}
        )

    server.add_tool(
        search,
        description="Search what was said in earlier conversations, word for word.",
        structured_output=False,
    )
    server.add_tool(
        read,
        description="Read memory blocks as they are now: what is known, what is unknown, stale or contradicted.",
        structured_output=False,
    )
    server.add_tool(
        update,
        description="Save what you learn in memory blocks: set a value, append an item, remove, merge keys, increment "
        "a number. All operations of a call are carried out, or none.",
        structured_output=False,
    )
    return server


async def serve(agent: str, *, user: str | None, session: str | None) -> None:
    """Answer on standard input and output until the input ends. Raises SetupError where there is no Trunkline."""
    async with AsyncTrunkline() as client:

        async def carry_out(name: str, given: dict[str, Any]) -> Answer:
            return await client.memory.call_tool(agent, name, given, user=user, session=session)

        await memory_server(carry_out).run_stdio_async()
