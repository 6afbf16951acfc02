"""An MCP server of an agent's memory (`pip install 'trunkline[mcp]'`)."""

from trunkline.mcp.server import memory_server, serve

__all__ = ["memory_server", "serve"]
