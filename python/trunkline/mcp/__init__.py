"""An MCP server of an agent's memory (`pip install 'trunkline[mcp]'`)."""

from trunkline.mcp.over_http import HttpAnswer
from trunkline.mcp.server import Answer, memory_server, serve

__all__ = ["Answer", "HttpAnswer", "memory_server", "serve"]
