"""An MCP server of the official package: on loopback over HTTP, and as a program on standard input and output."""

from __future__ import annotations

import asyncio
import base64
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from mcp.server import MCPServer
from mcp.server.mcpserver import Image
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def tools(folder: Path) -> MCPServer:
    """The server; what its slow tools do is noted in files of the folder."""
    server = MCPServer("tests")

    async def slowly(name: str) -> str:
        with (folder / name).open("a") as file:
            file.write("begun\n")
        if len((folder / name).read_text().splitlines()) == 1:
            await asyncio.sleep(60)
        return "done"

    @server.tool(description="Add two numbers.")
    def add(one: int, other: int) -> int:
        return one + other

    @server.tool(description="A picture.", structured_output=False)
    def picture() -> Image:
        return Image(data=PIXEL, format="png")

    @server.tool(description="Says that it is a picture, and is none.", structured_output=False)
    def no_picture() -> Image:
        return Image(data=b"nothing of the kind", format="png")

    @server.tool(description="Never do it.")
    def fail() -> str:
        raise ToolError("there is nothing there")

    @server.tool(description="Say much.", structured_output=False)
    def shout() -> str:
        return "beginning" + "x" * 5_000_000 + "end"

    @server.tool(description="The first time it takes long.", annotations=ToolAnnotations(idempotent_hint=True))
    async def safe() -> str:
        return await slowly("safe")

    @server.tool(description="The first time it takes long.")
    async def unsafe() -> str:
        return await slowly("unsafe")

    @server.tool(description="What is secret.")
    def environment(name: str) -> str:
        return os.environ.get(name, "nothing")

    @server.tool(description="Which process this is.")
    def process() -> int:
        return os.getpid()

    return server


@dataclass
class Listening:
    """A server over HTTP. `token`: it refuses who does not show this one, which may change."""

    url: str
    token: str | None = None
    shown: list[str | None] = field(default_factory=list)
    """The `Authorization` of each request."""
    redirect_to: str | None = None

    @property
    def requests(self) -> int:
        return len(self.shown)


@contextmanager
def listening(folder: Path, *, token: str | None = None) -> Iterator[Listening]:
    """Serve on a port of loopback until the block ends."""
    app = tools(folder).streamable_http_app()
    found = Listening("", token)

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = {name.decode(): value.decode() for name, value in scope["headers"]}
            shown = headers.get("authorization")
            found.shown.append(shown)
            if found.redirect_to is not None:
                moved = PlainTextResponse("", 307, {"location": found.redirect_to})
                await moved(scope, receive, send)
                return
            if found.token is not None and shown != f"Bearer {found.token}":
                await PlainTextResponse(f"not with {shown}", 401)(scope, receive, send)
                return
        await app(scope, receive, send)

    server = uvicorn.Server(
        uvicorn.Config(guarded, host="127.0.0.1", port=0, log_level="error", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, name="MCP server")
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            threading.Event().wait(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        found.url = f"http://127.0.0.1:{port}/mcp"
        yield found
    finally:
        server.should_exit = True
        thread.join(20)


if __name__ == "__main__":
    tools(Path(os.environ["TOOLS_FOLDER"])).run("stdio")
