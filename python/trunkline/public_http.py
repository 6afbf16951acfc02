"""Requests to URLs that others have named: to allowed addresses alone, within bounds, following nothing."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from functools import cache

import httpx

from trunkline.public_hosts import Allowed, NotAllowed, address_of


class NotReached(Exception):
    """A URL cannot be asked; the text is for whoever named it."""


@cache
def _trusted() -> ssl.SSLContext:
    return httpx.create_ssl_context(trust_env=False)  # reading the authorities takes some 20 ms


@asynccontextmanager
async def answer(
    method: str,
    url: str,
    *,
    allow: Collection[Allowed],
    setting: str,
    headers: Mapping[str, str],
    content: bytes = b"",
    seconds: float,
) -> AsyncIterator[httpx.Response]:
    """Send a request and give its answer, whose body is still to be read, for the block.

    It goes to the very address that was looked at: the name may stand for another one a moment later. `setting` is what
    the operator allows more addresses by; `seconds` may pass between two signs of life, so bound the block as well.
    Raises NotReached, out of the block too.
    """
    try:
        parsed = httpx.URL(url)
        port = parsed.port or (443 if parsed.scheme == "https" else 80)
        place = parsed.copy_with(host=str(await address_of(parsed.host, port, allow, setting)))
        sent = {**headers, "host": parsed.netloc.decode(), "accept-encoding": "identity"}
        async with (
            httpx.AsyncClient(verify=_trusted(), timeout=seconds, follow_redirects=False, trust_env=False) as http,
            http.stream(
                method, place, headers=sent, content=content, extensions={"sni_hostname": parsed.host}
            ) as response,
        ):
            yield response
    except NotAllowed as refused:
        raise NotReached(str(refused)) from refused
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError) as failed:
        raise NotReached(f"It could not be reached: {type(failed).__name__}.") from failed


async def body_of(response: httpx.Response, most: int) -> tuple[bytes, bool]:
    """Read an answer's body, as it was sent, up to `most` bytes; tell whether there is more."""
    found = bytearray()
    async for piece in response.aiter_raw():
        found += piece
        if len(found) > most:
            return bytes(found[:most]), True
    return bytes(found), False
