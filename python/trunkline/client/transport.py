from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from trunkline.client.connection import Connection
from trunkline.errors import (
    Conflict,
    Forbidden,
    Internal,
    InvalidRequest,
    NotFound,
    TooLarge,
    TrunklineError,
    Unauthenticated,
    Unavailable,
)

_BY_STATUS: dict[int, type[TrunklineError]] = {
    400: InvalidRequest,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    422: InvalidRequest,
    429: Unavailable,
    501: InvalidRequest,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}
_PAGE_SIZE = 100


@dataclass(frozen=True, slots=True)
class File:
    """Bytes of a media type, to be sent as they are."""

    media_type: str
    content: bytes


class Transport:
    """Sends requests with the key and turns refusals into the errors of `trunkline.errors`."""

    def __init__(self, connection: Connection, *, timeout_s: float, http: httpx.BaseTransport | None = None) -> None:
        self.base_url = connection.base_url
        self._http = httpx.Client(
            base_url=connection.base_url,
            headers={"authorization": f"Bearer {connection.api_key}"},
            timeout=timeout_s,
            transport=http,
            trust_env=http is None and not _is_loopback(connection.base_url),
        )

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        file: File | None = None,
    ) -> Any:
        """Return the JSON of a successful answer, None for an empty one; sent is a JSON body, or a file as it is.

        `params` that are None are left out. Raises the TrunklineError of the answer, Unavailable if there is none.
        """
        try:
            response = self._http.request(method, path, params=_query(params), **_sent(body, file))
        except httpx.TransportError as error:
            raise _away(self.base_url, method, path, error) from error
        return _read(self.base_url, response)

    def lines(self, path: str) -> Iterator[str]:
        """Yield the lines of an answer while it comes, each with its end. Raises as `request` does, also on the way."""
        try:
            with self._http.stream("GET", path) as response:
                if not response.is_success:
                    response.read()
                    raise _error(response)
                rest = ""
                for text in response.iter_text():
                    *whole, rest = (rest + text).split("\n")
                    yield from (f"{line}\n" for line in whole)
        except httpx.TransportError as error:
            raise _away(self.base_url, "GET", path, error) from error

    def pages(self, path: str, *, params: Mapping[str, Any] | None = None, limit: int | None = None) -> Iterator[Any]:
        """Yield the items of a list, page after page, at most `limit` of them; None is all."""
        page: str | None = None
        left = limit
        while left is None or left > 0:
            size = _PAGE_SIZE if left is None else min(left, _PAGE_SIZE)
            answer = self.request("GET", path, params={**(params or {}), "limit": size, "page": page})
            items = answer["data"] if left is None else answer["data"][:left]
            yield from items
            page = answer.get("next_page")
            if not page:
                return
            if left is not None:
                left -= len(items)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


class AsyncTransport:
    """The same, asynchronously."""

    def __init__(
        self, connection: Connection, *, timeout_s: float, http: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self.base_url = connection.base_url
        self._http = httpx.AsyncClient(
            base_url=connection.base_url,
            headers={"authorization": f"Bearer {connection.api_key}"},
            timeout=timeout_s,
            transport=http,
            trust_env=http is None and not _is_loopback(connection.base_url),
        )

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        file: File | None = None,
    ) -> Any:
        """Return the JSON of a successful answer, as `Transport.request` does."""
        try:
            response = await self._http.request(method, path, params=_query(params), **_sent(body, file))
        except httpx.TransportError as error:
            raise _away(self.base_url, method, path, error) from error
        return _read(self.base_url, response)

    async def lines(self, path: str) -> AsyncIterator[str]:
        """Yield the lines of an answer while it comes, as `Transport.lines` does."""
        try:
            async with self._http.stream("GET", path) as response:
                if not response.is_success:
                    await response.aread()
                    raise _error(response)
                rest = ""
                async for text in response.aiter_text():
                    *whole, rest = (rest + text).split("\n")
                    for line in whole:
                        yield f"{line}\n"
        except httpx.TransportError as error:
            raise _away(self.base_url, "GET", path, error) from error

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()


def _query(params: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (params or {}).items() if value is not None}


def _sent(body: Mapping[str, Any] | None, file: File | None) -> dict[str, Any]:
    if file is None:
        return {"json": body}
    return {"content": file.content, "headers": {"content-type": file.media_type}}


def segment(text: str) -> str:
    """Return a name or id as one segment of a path."""
    return quote(text, safe="")


def _is_loopback(url: str) -> bool:
    """Tell whether a proxy of the environment must not stand between."""
    return httpx.URL(url).host in {"127.0.0.1", "localhost", "::1"}


def _away(base_url: str, method: str, path: str, error: httpx.TransportError) -> Unavailable:
    if isinstance(error, httpx.TimeoutException):
        return Unavailable(f"{base_url} did not answer {method} {path} in time; try again.")
    return Unavailable(
        f"Trunkline does not answer at {base_url} ({error}): start it with `trunkline up`, "
        "or set TRUNKLINE_BASE_URL to where it runs."
    )


def _read(base_url: str, response: httpx.Response) -> Any:
    if not response.is_success:
        raise _error(response)
    if not response.content:
        return None
    try:
        return response.json()
    except ValueError as error:
        method, path = response.request.method, response.request.url.path
        raise Internal(
            f"{base_url} answered {method} {path} with something that is not JSON: is it Trunkline?"
        ) from error


def _error(response: httpx.Response) -> TrunklineError:
    """Read the error of either wire: `{"type": "error", "error": {…}}` or `{"error": {…}}`."""
    kind = _BY_STATUS.get(response.status_code, Internal)
    try:
        body = response.json()
        error = dict(body["error"])
        message = str(error.pop("message"))
    except (ValueError, KeyError, TypeError):
        request = response.request
        return kind(f"{request.method} {request.url} was answered with status {response.status_code} and no reason.")
    error.pop("type", None)
    param, code = error.pop("param", None), error.pop("code", None)
    return kind(message, param=param, code=None if code is None else str(code), details=error or None)
