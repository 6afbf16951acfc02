"""Trying an OAuth credential out: at its MCP server, and, where that refuses it, at its token endpoint."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Final, Literal
from uuid import UUID

import httpx

from trunkline.oauth.renewals import Access, RenewalFailed, TokenRenewals
from trunkline.oauth.secrecy import hidden
from trunkline.oauth.token_endpoint import Said
from trunkline.public_hosts import Allowed
from trunkline.public_http import NotReached, answer, body_of

Status = Literal["valid", "invalid", "unknown"]

SECONDS: Final = 15.0
"""For the whole of one look at the MCP server."""
_MOST_BYTES: Final = 4 << 20
_PROTOCOL: Final = "2025-06-18"
_UNAUTHORIZED: Final = 401
_REFUSALS: Final = (_UNAUTHORIZED, 403)
_REFUSES_FOR_GOOD: Final = (400, 401, 403)
"""What token endpoints say of a grant or a client that is not good; with another status they may think again."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The MCP method that failed, and what the server answered; None: nothing."""

    method: str
    said: Said | None

    @property
    def status(self) -> int | None:
        """The status of the answer."""
        return None if self.said is None else self.said.status


@dataclass(frozen=True, slots=True)
class Refreshed:
    """How a renewal went."""

    status: Literal["succeeded", "failed", "connect_error", "no_refresh_token"]
    said: Said | None = None


@dataclass(frozen=True, slots=True)
class Validation:
    """What came of it. `probe`: what failed at last; `refresh`: the renewal, if one was tried."""

    status: Status
    probe: Failure | None
    refresh: Refreshed | None


async def validate(
    renewals: TokenRenewals, tenant_id: UUID, credential_id: UUID, *, url: str, access: Access
) -> Validation:
    """Show a token to its MCP server, and renew it if it is refused with 401; a new token is stored.

    Raises Unavailable when the database is away.
    """
    allow = renewals.allow
    failure = await _probe(url, access.token, allow)
    if failure is None:
        return Validation("valid", None, None)
    if failure.status != _UNAUTHORIZED:
        return Validation(_judged(failure), failure, None)
    try:
        access = await renewals.renewed(tenant_id, credential_id, access.token, insist=True)
    except RenewalFailed as error:
        if error.has_no_refresh:
            return Validation("invalid", failure, Refreshed("no_refresh_token"))
        if error.said is None:
            return Validation("unknown", failure, Refreshed("connect_error"))
        status: Status = "invalid" if error.said.status in _REFUSES_FOR_GOOD else "unknown"
        return Validation(status, failure, Refreshed("failed", error.said))
    failure = await _probe(url, access.token, allow)
    return Validation("valid" if failure is None else _judged(failure), failure, Refreshed("succeeded"))


def _judged(failure: Failure) -> Status:
    return "invalid" if failure.status in _REFUSALS else "unknown"


async def _probe(url: str, token: str, allow: Collection[Allowed]) -> Failure | None:
    """Greet an MCP server and ask for its tools; return what failed."""
    server = _Server(url, token, allow)
    try:
        async with asyncio.timeout(SECONDS):
            us = {"name": "trunkline", "version": "1"}
            await server.ask("initialize", {"protocolVersion": _PROTOCOL, "capabilities": {}, "clientInfo": us})
            await server.ask("notifications/initialized", None)
            await server.ask("tools/list", {})
            await server.leave()
    except _Failed as failed:
        return Failure(server.method, failed.said)
    except (TimeoutError, NotReached):
        return Failure(server.method, None)
    return None


class _Failed(Exception):
    def __init__(self, said: Said) -> None:
        super().__init__()
        self.said = said


class _Server:
    """One MCP server over streamable HTTP, as far as a look at it goes."""

    def __init__(self, url: str, token: str, allow: Collection[Allowed]) -> None:
        self._url = url
        self._token = token
        self._allow = allow
        self._headers = {
            "authorization": f"Bearer {token}",
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
        }
        self.method = "initialize"
        """What was asked last."""

    async def ask(self, method: str, params: Mapping[str, Any] | None) -> None:
        """Send a request, or (without `params`) a notification. Raises _Failed and NotReached."""
        self.method = method
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
        if params is not None:
            message |= {"id": 1, "params": params}
        async with self._answer("POST", json.dumps(message).encode()) as response:
            kind = response.headers.get("content-type", "")
            if kind.startswith("text/event-stream") and response.is_success:
                said, is_cut = await _first_answer(response), False
            else:
                said, is_cut = await body_of(response, _MOST_BYTES)
            is_good = response.is_success and (params is None or _is_result(said))
            if not is_good:
                words = hidden(said.decode(errors="replace"), (self._token,))
                raise _Failed(Said.of(response.status_code, kind, words, is_cut=is_cut))
            session = response.headers.get("mcp-session-id")
        if method == "initialize":
            self._headers["mcp-protocol-version"] = _PROTOCOL
            if session is not None:
                self._headers["mcp-session-id"] = session

    async def leave(self) -> None:
        """Have the server forget what it keeps for us; some refuse that."""
        if "mcp-session-id" in self._headers:
            async with self._answer("DELETE", b""):
                pass

    def _answer(self, method: str, content: bytes) -> AbstractAsyncContextManager[httpx.Response]:
        return answer(
            method,
            self._url,
            allow=self._allow,
            setting="tools.mcp.allow",
            headers=self._headers,
            content=content,
            seconds=SECONDS,
        )


async def _first_answer(response: httpx.Response) -> bytes:
    """Return the JSON of the answer in a stream of events, which may stay open behind it; else all that came."""
    seen = b""
    async for piece in response.aiter_raw():
        seen += piece
        *events, _ = seen.replace(b"\r\n", b"\n").split(b"\n\n")
        for event in events:
            lines = [line.removeprefix(b"data:").strip() for line in event.split(b"\n") if line.startswith(b"data:")]
            data = b"\n".join(lines)
            if b'"id"' in data and (b'"result"' in data or b'"error"' in data):
                return data
        if len(seen) > _MOST_BYTES:
            break
    return seen[:_MOST_BYTES]


def _is_result(body: bytes) -> bool:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and "result" in found
