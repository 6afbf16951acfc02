"""Every error becomes an answer here: the envelope of the wire, a status, and words on what to do.

`{"type": "error", "error": {"type", "message", …}, "request_id": "req_…"}`
"""

from __future__ import annotations

import difflib
import logging
import re
import secrets
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trunkline.errors import Conflict, Internal, InvalidRequest, NotFound, TrunklineError, Unavailable

_logger = logging.getLogger(__name__)


class MethodNotAllowed(TrunklineError):
    """The path is there, but not for this method."""

    status = 405
    type = "invalid_request_error"


class Answers:
    """ASGI middleware around everything else: gives the request its id, and answers what was raised."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = f"req_{secrets.token_hex(16)}"
        scope.setdefault("state", {})["request_id"] = request_id
        begun = False

        async def send_with_id(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message["headers"] = [*message.get("headers", ()), (b"request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:  # noqa: BLE001 - the last place that can answer
            known = translate(error)
            if isinstance(known, Internal):
                _logger.error(  # noqa: TRY400 - `exception` would log the error's text, which may hold the request's data
                    "%s %s %s failed: %s", request_id, scope["method"], scope["path"], _trace(error)
                )
            if not begun:
                await _response(known, request_id)(scope, receive, send_with_id)


def install(app: FastAPI) -> None:
    """Answer with our envelope what FastAPI would answer with its own; all other errors travel on to `Answers`."""

    async def raised(request: Request, error: Exception) -> JSONResponse:
        known = _routing(request, error) if isinstance(error, HTTPException) else translate(error)
        response = _response(known, request.state.request_id)
        if isinstance(known, MethodNotAllowed):
            response.headers["allow"] = ", ".join(_methods(request.app, request.url.path))
        return response

    app.add_exception_handler(HTTPException, raised)
    app.add_exception_handler(RequestValidationError, raised)


def translate(error: Exception) -> TrunklineError:
    """Return what a client is told of an error; of one that nobody foresaw, nothing but that it happened."""
    match error:
        case TrunklineError():
            return error
        case RequestValidationError():
            return _invalid(error.errors())
        case psycopg.errors.UniqueViolation():
            return Conflict("There is something with this name or id already; choose another.", code="already_exists")
        case psycopg.errors.ForeignKeyViolation():
            return Conflict(
                "Something that the request refers to is gone, or is still referred to; read it again.",
                code="reference",
            )
        case psycopg.errors.CheckViolation() | psycopg.errors.NotNullViolation() | psycopg.DataError():
            what = error.diag.message_primary or "a value that cannot be stored"
            return InvalidRequest(f"The request has a value that cannot be stored: {what}.")
        case psycopg.OperationalError() | psycopg.InterfaceError():
            return Unavailable("The database is not reachable or gave up this transaction; try again.")
        case UnicodeEncodeError():
            return InvalidRequest("The request has a text that is not Unicode and cannot be stored.")
        case _:
            return Internal(
                "Trunkline failed on this request, and the fault is its own. The log has the request_id; try again, "
                "and report it if it stays."
            )


def _response(error: TrunklineError, request_id: str) -> JSONResponse:
    headers = {"retry-after": "1"} if isinstance(error, Unavailable) else None
    return JSONResponse(error.to_wire(request_id), status_code=error.status, headers=headers)


def _invalid(faults: Sequence[Mapping[str, Any]]) -> InvalidRequest:
    """Put the first fault into one line that begins with its place, and tell how many there are."""
    fault = faults[0]
    place, *inner = fault["loc"] or ("body",)
    param = _param(inner)
    message = _said(fault)
    where = {"body": "", "query": "query parameter ", "path": "path parameter ", "header": "header "}.get(place, "")
    subject = f"{where}`{param}`" if param else "the body"
    if fault["type"] == "missing" and place == "body" and not inner:
        message = "is missing; send a JSON object with content-type application/json"
    more = f" ({len(faults) - 1} more)" if len(faults) > 1 else ""
    return InvalidRequest(f"{subject}: {message}.{more}", param=param or None)


def _said(fault: Mapping[str, Any]) -> str:
    match fault["type"]:
        case "extra_forbidden":
            return "is not a known field; remove it or correct its spelling"
        case "missing":
            return "is missing"
        case "model_attributes_type" | "dict_type" | "model_type":
            return "must be a JSON object (with content-type application/json)"
        case "union_tag_not_found":
            return "has no `type`"
        case "union_tag_invalid":
            context = fault.get("ctx", {})
            return f"has the unknown type {context.get('tag')!r}; known are {context.get('expected_tags')}"
        case _:
            return str(fault["msg"]).removeprefix("Value error, ").rstrip(".")


_MEMBERS = frozenset(
    "text image document search_result base64 url custom mcp_toolset agent_toolset_20260401".split()  # noqa: SIM905
)
_EVENT_TYPE = re.compile(r"[a-z_]+\.[a-z_.]+")


def _param(inner: Sequence[Any]) -> str:
    """Return the place as the client wrote it: `events[0].content`. A union's member is no part of it."""
    path = ""
    at_union = False
    for part in inner:
        if isinstance(part, int):
            path += f"[{part}]"
        elif at_union and (part in _MEMBERS or _EVENT_TYPE.fullmatch(part)):
            at_union = False
            continue
        else:
            path += f".{part}" if path else str(part)
        at_union = isinstance(part, int) or part == "source"
    return path


def _routing(request: Request, error: HTTPException) -> TrunklineError:
    method, path = request.method, request.url.path
    if error.status_code == 404:
        near = _nearby(request.app, path)
        hint = f" Nearby there is: {', '.join(near)}." if near else ""
        return NotFound(f"There is no {_shown(path)} here.{hint} /docs lists what there is.", code="unknown_path")
    if error.status_code == 405:
        allowed = " and ".join(_methods(request.app, path)) or "another method"
        return MethodNotAllowed(f"{_shown(path)} does not take {method}; it takes {allowed}.", code="wrong_method")
    return InvalidRequest(str(error.detail))


def _nearby(app: FastAPI, path: str) -> list[str]:
    """Return up to three paths of the API that look like this one."""
    words = re.sub(r"/[a-z]+_[0-9a-f]{32}(?=/|$)", "/{}", path)
    known = {re.sub(r"\{[^}]*\}", "{}", there): there for there in app.openapi()["paths"]}
    return [known[match] for match in difflib.get_close_matches(words[:200], known, n=3, cutoff=0.6)]


def _methods(app: FastAPI, path: str) -> list[str]:
    """Return the methods that some route has for this path."""
    found: set[str] = set()
    for template, operations in app.openapi()["paths"].items():
        pattern = "".join(
            "[^/]+" if part.startswith("{") else re.escape(part) for part in re.split(r"(\{[^}]*\})", template)
        )
        if re.fullmatch(pattern, path):
            found.update(method.upper() for method in operations)
    return sorted(found)


def _shown(path: str) -> str:
    return repr(path if len(path) <= 120 else f"{path[:120]}…")


def _trace(error: BaseException) -> str:
    """Return where an error came from without what it says: its text may hold the request's data."""
    told = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    frames = "".join(traceback.format_tb(error.__traceback__))
    return f"{type(error).__module__}.{type(error).__qualname__} {told or ''}\n{frames}"
