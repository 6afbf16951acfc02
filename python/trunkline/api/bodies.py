"""Request bodies, before any route sees them: whole, within the limit, and JSON that can be stored.

JSON allows what Postgres' text and jsonb cannot hold (NUL, lone surrogates) and nesting that no parser survives; they
are refused here once for all routes.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trunkline.errors import InvalidRequest, TooLarge

MAX_DEPTH: Final = 100
"""Levels of arrays and objects; far above what any of our schemas nests."""

_SUSPICIOUS: Final = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])|\x00")


class Bodies:
    """ASGI middleware that reads the body, checks it, and hands it on in one piece.

    Raises TooLarge and InvalidRequest, which the middleware around it turns into answers.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        declared = headers.get(b"content-length", b"")
        if declared.isdigit() and int(declared) > self._max_bytes:
            raise self._too_large()
        body = await self._read(receive)
        if body is None:
            return
        if body and _is_json(headers.get(b"content-type", b"")):
            check(body)
        sent = False

        async def replay() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, send)

    async def _read(self, receive: Receive) -> bytes | None:
        """Return the whole body; None: the client went away."""
        pieces: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            piece = message.get("body", b"")
            size += len(piece)
            if size > self._max_bytes:
                raise self._too_large()
            pieces.append(piece)
            if not message.get("more_body", False):
                return b"".join(pieces)

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"The request body is over the limit of {self._max_bytes} bytes; send less at a time, or raise "
            "`limits.max_body_bytes` in trunkline.yaml.",
            details={"limit_bytes": self._max_bytes},
        )


def check(body: bytes) -> None:
    """Raise InvalidRequest, with the place, unless the bytes are JSON that can be stored."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"The body is not UTF-8: byte {error.start} is invalid.", code="invalid_utf8") from error
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise _too_deep() from error
    except json.JSONDecodeError as error:
        raise InvalidRequest(
            f"The body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}.", code="invalid_json"
        ) from error
    except ValueError as error:  # a number of more digits than Python reads
        raise InvalidRequest(f"The body is not JSON that can be read: {error}.", code="invalid_json") from error
    _check_values(value, strings=_SUSPICIOUS.search(body) is not None)


def _check_values(value: Any, *, strings: bool) -> None:
    """Walk the containers level by level; look into strings only if the bytes gave reason to."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(item.values())
                if strings:
                    inner.extend(item.keys())
            elif isinstance(item, list):
                inner.extend(item)
            elif strings and isinstance(item, str):
                _check_string(item)
        if not inner:
            return
        level = inner
    raise _too_deep()


def _check_string(text: str) -> None:
    if "\0" in text:
        raise InvalidRequest("A text in the body contains NUL (\\u0000), which cannot be stored; remove it.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            "A text in the body contains half of a surrogate pair (\\ud800 to \\udfff alone), which is no character; "
            "remove it."
        ) from error


def _refuse_constant(name: str) -> Any:
    raise InvalidRequest(f"The body is not JSON: {name} is not a JSON number.", code="invalid_json")


def _too_deep() -> InvalidRequest:
    return InvalidRequest(f"The body is nested deeper than {MAX_DEPTH} levels.", code="too_deep")


def _is_json(content_type: bytes) -> bool:
    kind = content_type.partition(b";")[0].strip().lower()
    return kind == b"application/json" or kind.endswith(b"+json")
