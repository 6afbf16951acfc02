from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote
from uuid import uuid4

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
_PAUSES: Final = (0.2, 1.0)
"""Before a request is sent again, in seconds."""
_LONGEST_PAUSE: Final = 10.0
_DECLINED: Final = (429, 503)
"""Answers of who has not carried a request out, so that it may be sent again whatever it is."""


@dataclass(frozen=True, slots=True)
class File:
    """Bytes of a media type, to be sent as they are."""

    media_type: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Upload:
    """A file of a form."""

    name: str
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
        file: File | Upload | None = None,
        once: bool = False,
    ) -> Any:
        """Return the JSON of a successful answer, None for an empty one; sent is a JSON body, or a file.

        `params` that are None are left out. What was not carried out is asked again, twice at most; with `once` what
        may have been too, under an idempotency key. Raises the TrunklineError of the answer, Unavailable if there is
        none.
        """
        return _read(self.base_url, self._send(method, path, params, _sent(body, file, once=once), again=once))

    def content(self, path: str) -> bytes:
        """Return the bytes of a successful answer. Raises as `request` does."""
        response = self._send("GET", path, None, {}, again=True)
        if not response.is_success:
            raise _error(response)
        return response.content

    def _send(
        self, method: str, path: str, params: Mapping[str, Any] | None, sent: dict[str, Any], *, again: bool
    ) -> httpx.Response:
        for pause in _PAUSES:
            try:
                response = self._http.request(method, path, params=_query(params), **sent)
            except httpx.TransportError as error:
                if not _may_ask_again(error, method, again=again):
                    raise _away(self.base_url, method, path, error) from error
                time.sleep(pause)
            else:
                if response.status_code not in _DECLINED:
                    return response
                time.sleep(_pause(response, pause))
        try:
            return self._http.request(method, path, params=_query(params), **sent)
        except httpx.TransportError as error:
            raise _away(self.base_url, method, path, error) from error

    def lines(self, path: str, *, params: Mapping[str, Any] | None = None) -> Iterator[str]:
        """Yield the lines of an answer while it comes, each with its end. Raises as `request` does, also on the way."""
        try:
            with self._http.stream("GET", path, params=_query(params)) as response:
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
        file: File | Upload | None = None,
        once: bool = False,
    ) -> Any:
        """Return the JSON of a successful answer, as `Transport.request` does."""
        return _read(self.base_url, await self._send(method, path, params, _sent(body, file, once=once), again=once))

    async def content(self, path: str) -> bytes:
        """Return the bytes of a successful answer. Raises as `request` does."""
        response = await self._send("GET", path, None, {}, again=True)
        if not response.is_success:
            raise _error(response)
        return response.content

    async def _send(
        self, method: str, path: str, params: Mapping[str, Any] | None, sent: dict[str, Any], *, again: bool
    ) -> httpx.Response:
        for pause in _PAUSES:
            try:
                response = await self._http.request(method, path, params=_query(params), **sent)
            except httpx.TransportError as error:
                if not _may_ask_again(error, method, again=again):
                    raise _away(self.base_url, method, path, error) from error
                await asyncio.sleep(pause)
            else:
                if response.status_code not in _DECLINED:
                    return response
                await asyncio.sleep(_pause(response, pause))
        try:
            return await self._http.request(method, path, params=_query(params), **sent)
        except httpx.TransportError as error:
            raise _away(self.base_url, method, path, error) from error

    async def pages(
        self, path: str, *, params: Mapping[str, Any] | None = None, limit: int | None = None
    ) -> AsyncIterator[Any]:
        """Yield the items of a list, as `Transport.pages` does."""
        page: str | None = None
        left = limit
        while left is None or left > 0:
            size = _PAGE_SIZE if left is None else min(left, _PAGE_SIZE)
            answer = await self.request("GET", path, params={**(params or {}), "limit": size, "page": page})
            items = answer["data"] if left is None else answer["data"][:left]
            for item in items:
                yield item
            page = answer.get("next_page")
            if not page:
                return
            if left is not None:
                left -= len(items)

    async def lines(self, path: str, *, params: Mapping[str, Any] | None = None) -> AsyncIterator[str]:
        """Yield the lines of an answer while it comes, as `Transport.lines` does."""
        try:
            async with self._http.stream("GET", path, params=_query(params)) as response:
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


def _sent(body: Mapping[str, Any] | None, file: File | Upload | None, *, once: bool) -> dict[str, Any]:
    headers = {"idempotency-key": uuid4().hex} if once else {}
    if isinstance(file, Upload):
        return {"files": {"file": (file.name, file.content, file.media_type)}, "data": body, "headers": headers}
    if file is not None:
        return {"content": file.content, "headers": {"content-type": file.media_type, **headers}}
    return {"json": body, "headers": headers}


def _may_ask_again(error: httpx.TransportError, method: str, *, again: bool) -> bool:
    """Tell whether a request that has no answer may be sent again: it never came there, or may come twice."""
    if isinstance(error, httpx.ConnectError):
        return True
    return (again or method == "GET") and not isinstance(error, httpx.TimeoutException)


def _pause(response: httpx.Response, least: float) -> float:
    """Return how many seconds to wait before a request is sent again that was declined."""
    try:
        return min(max(float(response.headers["retry-after"]), least), _LONGEST_PAUSE)
    except (KeyError, ValueError):
        return least


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
