"""HTTP to MCP servers: to allowed addresses alone, the token to the server's own URL alone, answers within bounds."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Collection
from functools import cache
from typing import Final

import httpx2

from trunkline.public_hosts import Allowed, address_of
from trunkline.runtime.tools.mcp.credentials import Bearer

MAX_BYTES: Final = 16 << 20
"""Of one answer."""
_UNAUTHORIZED: Final = 401
_REFUSALS: Final = (_UNAUTHORIZED, 403)


@cache
def _trusted() -> ssl.SSLContext:
    return httpx2.create_ssl_context(trust_env=False)  # reading the authorities takes some 20 ms


class GuardedTransport(httpx2.AsyncHTTPTransport):
    """Connects to the address that was looked at, so that no second look-up of the name can lead elsewhere.

    A server has one of its own: connections shared by address would take one server's certificate for another's.
    """

    def __init__(self, url: str, bearer: Bearer, allow: Collection[Allowed]) -> None:
        super().__init__(verify=_trusted(), trust_env=False)
        self._url = httpx2.URL(url)
        self.bearer = bearer
        self._allow = allow
        self.refused: str | None = None
        """Why the server cannot be used: it has refused the token, or that there was none."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request. Raises NotAllowed for a host that leads inside."""
        url = request.url
        host = url.raw_host.decode("ascii")
        port = url.port or (443 if url.scheme == "https" else 80)
        address = await address_of(host, port, self._allow, "tools.mcp.allow")
        headers = request.headers.copy()
        headers["accept-encoding"] = "identity"  # what is compressed has no bound
        bearer = self.bearer
        token = await bearer.token() if self._is_own(url) else None
        extensions = {**request.extensions, "sni_hostname": host}

        async def sent() -> httpx2.Response:
            if token is not None:
                headers["authorization"] = f"Bearer {token}"
            place = url.copy_with(host=str(address))
            again = httpx2.Request(request.method, place, headers=headers, stream=request.stream, extensions=extensions)
            response = await super(GuardedTransport, self).handle_async_request(again)
            if response.headers.get("content-encoding", "identity") != "identity":
                await response.aclose()
                raise httpx2.ReadError("The answer is compressed, though that was not asked for.", request=request)
            return response

        response = await sent()
        if (
            response.status_code == _UNAUTHORIZED
            and token is not None
            and isinstance(request.stream, httpx2.ByteStream)
        ):
            token = await bearer.instead_of(token)
            if token is not None:  # it did nothing yet
                await response.aclose()
                response = await sent()
        if response.status_code in _REFUSALS:
            self.refused = _reason(response.status_code, bearer.problem)
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


def _reason(status: int, problem: str | None) -> str:
    if problem is not None:
        return f"It refuses with status {status}: {problem}"
    return f"It refuses with status {status}. Give the session a vault with a credential for its very URL."


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
