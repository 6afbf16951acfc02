from __future__ import annotations

from mcp.server import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

_CHECKED = TransportSecuritySettings(enable_dns_rebinding_protection=False)


class HttpAnswer(Response):
    """What a server answers to one request over streamable HTTP, without a session: JSON, and no stream.

    Whoever returns it has checked where the request comes from.
    """

    def __init__(self, server: MCPServer) -> None:
        super().__init__()
        self._server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request."""
        self._server.streamable_http_app(json_response=True, stateless_http=True, transport_security=_CHECKED)
        manager = self._server.session_manager
        async with manager.run():
            await manager.handle_request(scope, receive, send)
