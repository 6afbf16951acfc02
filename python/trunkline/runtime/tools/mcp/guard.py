"""HTTP to MCP servers: to allowed addresses alone, the token to the server's own URL alone, answers within bounds."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Collection
from functools import cache
from typing import Final

import httpx2

from trunkline.public_hosts import Allowed, address_of

MAX_BYTES: Final = 16 << 20
"""Of one answer."""
_REFUSALS: Final = (401, 403)


@cache
def _trusted() -> ssl.SSLContext:
    return httpx2.create_ssl_context(trust_env=False)  # reading the authorities takes some 20 ms


class GuardedTransport(httpx2.AsyncHTTPTransport):
    """Connects to the address that was looked at, so that no second look-up of the name can lead elsewhere.

    A server has one of its own: connections shared by address would take one server's certificate for another's.
    """

    def __init__(self, url: str, token: str | None, allow: Collection[Allowed]) -> None:
        super().__init__(verify=_trusted(), trust_env=False)
        self._url = httpx2.URL(url)
        self._token = token
        self._allow = allow
        self.refused: int | None = None
        """The status by which the server has refused the token, or that there was none."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request. Raises NotAllowed for a host that leads inside."""
        url = request.url
        host = url.raw_host.decode("ascii")
        port = url.port or (443 if url.scheme == "https" else 80)
        address = await address_of(host, port, self._allow, "tools.mcp.allow")
        headers = request.headers.copy()
        headers["accept-encoding"] = "identity"  # what is compressed has no bound
        if self._token is not None and self._is_own(url):
            headers["authorization"] = f"Bearer {self._token}"
        response = await super().handle_async_request(
            httpx2.Request(
                request.method,
                url.copy_with(host=str(address)),
                headers=headers,
                stream=request.stream,
                extensions={**request.extensions, "sni_hostname": host},
            )
        )
        if response.headers.get("content-encoding", "identity") != "identity":
            await response.aclose()
            raise httpx2.ReadError("The answer is compressed, though that was not asked for.", request=request)
        if response.status_code in _REFUSALS:
            self.refused = response.status_code
        if isinstance(response.stream, httpx2.AsyncByteStream):
            is_events = response.headers.get("content-type", "").startswith("text/event-stream")
            if not is_events:  # of a stream each event is bounded: it may be open for long
                response.stream = _Bounded(response.stream)
        return response

    def _is_own(self, url: httpx2.URL) -> bool:
        """Tell whether a URL is the server's own: a redirect within its host may lead to another tenant's."""
        own = self._url
        upgraded = own.scheme == "http" and url.scheme == "https" and own.port is None and url.port is None
        return (
            (url.host, url.port) == (own.host, own.port)
            and (url.scheme == own.scheme or upgraded)
            and url.path.rstrip("/") == own.path.rstrip("/")
        )


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        seen = 0
        async for piece in self._stream:
            seen += len(piece)
            if seen > MAX_BYTES:
                raise httpx2.ReadError(f"The answer is longer than {MAX_BYTES} bytes.")
            yield piece

    async def aclose(self) -> None:
        """End the stream."""
        await self._stream.aclose()
