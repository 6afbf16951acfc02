from __future__ import annotations

from collections.abc import Iterator, Mapping
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
        self, method: str, path: str, *, params: Mapping[str, Any] | None = None, body: Mapping[str, Any] | None = None
    ) -> Any:
        """Return the JSON of a successful answer, None for an empty one.

        `params` that are None are left out. Raises the TrunklineError of the answer, Unavailable if there is none.
        """
        query = {name: value for name, value in (params or {}).items() if value is not None}
        try:
            response = self._http.request(method, path, params=query, json=body)
        except httpx.TransportError as error:
            raise _away(self.base_url, method, path, error) from error
        return _read(self.base_url, response)

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
        self, method: str, path: str, *, params: Mapping[str, Any] | None = None, body: Mapping[str, Any] | None = None
    ) -> Any:
        """Return the JSON of a successful answer, as `Transport.request` does."""
        query = {name: value for name, value in (params or {}).items() if value is not None}
        try:
            response = await self._http.request(method, path, params=query, json=body)
        except httpx.TransportError as error:
            raise _away(self.base_url, method, path, error) from error
        return _read(self.base_url, response)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()


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
