from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from trunkline.errors import SetupError


def register(app: typer.Typer) -> None:
    """Add `trunkline mcp`."""
    app.command("mcp")(serve_mcp)


def serve_mcp(
    agent: Annotated[str, typer.Argument(help="The agent's name or id, whose memory it is.")],
    *,
    user: Annotated[str | None, typer.Option("--user", "-u", help="Whose memory, for blocks of scope user.")] = None,
    session: Annotated[str | None, typer.Option("--session", "-s", help="Which session's, for blocks of it.")] = None,
) -> None:
    """Serve an agent's memory to an MCP client on standard input and output: search, read and update.

    The key is TRUNKLINE_API_KEY, with the scope inference. Needs `pip install 'trunkline[mcp]'`.
    """
    try:
        from trunkline.mcp import serve
    except ModuleNotFoundError as error:
        raise SetupError("`trunkline mcp` needs the package mcp: pip install 'trunkline[mcp]'.") from error
    asyncio.run(serve(agent, user=user, session=session))
