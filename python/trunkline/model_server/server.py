"""The server: routes, the way of one request, and `run`."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import itertools
import json
import logging
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from trunkline.model_server import bedrock_converse, embeddings, event_stream, faults, script, tokens
from trunkline.model_server.anthropic_messages import AnthropicMessages
from trunkline.model_server.bedrock_converse import BedrockConverse
from trunkline.model_server.delivery import TRANSPORT, Delivery
from trunkline.model_server.faults import NO_FAULTS, Faults
from trunkline.model_server.gemini import Gemini
from trunkline.model_server.openai_chat import OpenAIChat
from trunkline.model_server.openai_responses import OpenAIResponses
from trunkline.model_server.prompt import Call, Usage
from trunkline.model_server.prompt_cache import PromptCache
from trunkline.model_server.record import MAX_REQUESTS, Entry, Record
from trunkline.model_server.responder import Reply, Responder
from trunkline.model_server.script import Script
from trunkline.model_server.wire import ApiError, Ids, ModelServerError, Wire

MAX_BODY_BYTES = 64 * 1024 * 1024
_CREATED = 1_750_000_000  # when every model was made, in Unix seconds

Endpoint: TypeAlias = Callable[[Request], Awaitable[ASGIApp]]


@dataclass(slots=True)
class _Asked:
    """One request while it is answered."""

    request: Request
    body: bytes
    fields: Mapping[str, Any]
    faults: Faults
    ids: Ids
    key: str = ""
    status: int = 200
    usage: Usage | None = None


class ModelServer:
    """All state of one server: script, prompt cache, record."""

    def __init__(self, script: Script, defaults: Faults = NO_FAULTS, api_key: str | None = None) -> None:
        self._script = script
        self._defaults = defaults.over(script.faults)
        self._api_key = api_key
        self._responder = Responder(script)
        self._cache = PromptCache()
        self._record = Record()
        self._sequence = itertools.count(1)
        self._chat = OpenAIChat()
        self._messages = AnthropicMessages()
        self._counting = AnthropicMessages(counting=True)
        self._gemini = Gemini()
        self._bedrock = BedrockConverse()

    def app(self) -> Starlette:
        """Return the ASGI application; it needs the protocol of `run` under it."""
        bedrock = "/model/{model:path}"
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self._model_route(self._chat), methods=["POST"]),
                Route("/v1/responses", self._model_route(OpenAIResponses()), methods=["POST"]),
                Route("/v1/messages", self._model_route(self._messages), methods=["POST"]),
                *self._gemini_routes("/v1beta"),
                *self._gemini_routes("/v1"),
                Route(f"{bedrock}/converse", self._model_route(self._bedrock, stream=False), methods=["POST"]),
                Route(f"{bedrock}/converse-stream", self._model_route(self._bedrock, stream=True), methods=["POST"]),
                Route("/v1/messages/count_tokens", self._route(self._counting, self._count_tokens), methods=["POST"]),
                Route("/v1/embeddings", self._route(self._chat, self._embeddings), methods=["POST"]),
                Route("/v1/models", self._list_models),
                Route("/v1/models/{model:path}", self._show_model),
                Route("/_requests", self._requests, methods=["GET", "DELETE"]),
                Route("/_stats", self._stats),
                Route("/healthz", self._health),
            ],
            exception_handlers={HTTPException: self._no_such_route},
        )

    def _gemini_routes(self, version: str) -> Iterator[Route]:
        for method, stream in (("generateContent", False), ("streamGenerateContent", True)):
            path = f"{version}/models/{{model:path}}:{method}"
            yield Route(path, self._model_route(self._gemini, stream=stream), methods=["POST"])

    def _model_route(self, wire: Wire, stream: bool | None = None) -> Endpoint:
        """Answer model calls; `stream` is said where the path says it and names the model."""

        async def answer(asked: _Asked) -> ASGIApp:
            request = asked.request
            of_url = {} if stream is None else {**request.path_params, "stream": stream}
            if "alt" in request.query_params:
                of_url["alt"] = request.query_params["alt"]
            call = wire.parse({**asked.fields, **of_url})
            reply = self._responder.reply(call.prompt)
            self._apply_faults(asked, reply.faults, call.prompt.model)
            self._fail(asked, streaming=call.stream)
            asked.usage = self._usage(wire, call, reply, asked.key)
            headers = {wire.request_id_header: asked.ids.make("req_")}
            if not call.stream:
                body = wire.body(call, reply.answer, asked.usage, asked.ids)
                return Delivery(body, headers, asked.faults, output_tokens=asked.usage.output_tokens)
            if isinstance(wire, BedrockConverse):
                headers["content-type"] = event_stream.MEDIA_TYPE
            events = wire.events(call, reply.answer, asked.usage, asked.ids)
            late = wire.error_event(_asked_error(asked.faults), asked.ids.make("req_"))
            return Delivery(events, headers, asked.faults, late_error=late)

        return self._route(wire, answer)

    def _route(self, wire: Wire, answer: Callable[[_Asked], Awaitable[ASGIApp]]) -> Endpoint:
        """Read the body, check the key, answer or refuse in the wire's words, and record."""

        async def endpoint(request: Request) -> ASGIApp:
            ids = Ids(b"", next(self._sequence))
            asked = _Asked(request, b"", {}, self._defaults, ids)
            try:
                asked.body = await _body(request)
                asked.ids = Ids(asked.body, next(self._sequence))
                asked.key = self._authenticate(request, wire)
                self._apply_faults(asked, NO_FAULTS, None)
                asked.fields = _json_object(asked.body)
                return await answer(asked)
            except (ApiError, RecursionError) as error:
                refused = error if isinstance(error, ApiError) else ApiError(400, "The JSON body is nested too deeply.")
                return self._refused(asked, wire, refused)
            finally:
                headers = tuple(request.headers.raw)
                entry = Entry(request.method, request.url.path, headers, asked.body, asked.status, asked.usage)
                self._record.add(entry)

        return endpoint

    def _refused(self, asked: _Asked, wire: Wire, error: ApiError) -> Delivery:
        asked.status = error.status
        request_id = asked.ids.make("req_")
        headers = {wire.request_id_header: request_id}
        if isinstance(wire, BedrockConverse):
            headers["x-amzn-errortype"] = bedrock_converse.exception(error)
        if error.retry_after is not None:
            headers["retry-after"] = str(error.retry_after)
        # Of the faults only those that have to do with time and packets: a refusal is whole and well formed.
        shaping = Faults(latency_ms=asked.faults.latency_ms, chunk_bytes=asked.faults.chunk_bytes)
        return Delivery(wire.error(error, request_id), headers, shaping, status=error.status)

    def _apply_faults(self, asked: _Asked, of_rule: Faults, model: str | None) -> None:
        """Return the server's defaults, under the rule's faults, under the model name's, under the headers'."""
        try:
            of_headers = faults.from_headers(asked.request.headers.raw)
        except ValueError as error:
            raise ApiError(400, str(error)) from error
        of_model = faults.from_model(model, self._responder.take) if model else NO_FAULTS
        asked.faults = of_headers.over(of_model.over(of_rule.over(self._defaults)))

    def _fail(self, asked: _Asked, *, streaming: bool) -> None:
        """Raise the error that the faults ask for, unless it is to come in the middle of a stream."""
        wanted = asked.faults
        if wanted.rate_limit is not None:
            message = f"Rate limit reached, as asked of the model server. Try again in {wanted.rate_limit} s."
            raise ApiError(429, message, retry_after=wanted.rate_limit)
        if wanted.error is not None and not (streaming and wanted.error_after_events):
            raise _asked_error(wanted)

    def _usage(self, wire: Wire, call: Call, reply: Reply, key: str) -> Usage:
        segments = call.prompt.segments
        used = wire.cache(self._cache, f"{key}\0{call.prompt.model}", segments)
        usage = Usage(
            input_tokens=tokens.of_prompt(segments),
            output_tokens=tokens.of_answer(reply.answer),
            cached_tokens=used.read,
            cache_write_5m_tokens=used.written_5m,
            cache_write_1h_tokens=used.written_1h,
        )
        if reply.usage is None:
            return usage
        given = reply.usage.model_dump(exclude_none=True)
        if "cache_write_tokens" in given:
            given |= {"cache_write_5m_tokens": given.pop("cache_write_tokens"), "cache_write_1h_tokens": 0}
        return replace(usage, **given)

    def _authenticate(self, request: Request, wire: Wire) -> str:
        """Return the caller's key; raises `ApiError` if it is not the one that is wanted."""
        if isinstance(wire, AnthropicMessages) and "anthropic-version" not in request.headers:
            raise ApiError(400, "anthropic-version: header is required")
        signed = isinstance(wire, BedrockConverse)
        key = bedrock_converse.access_key(request.headers) if signed else _key(request)
        if self._api_key is None:
            return key
        if not hmac.compare_digest(key.encode(), self._api_key.encode()):
            if isinstance(wire, AnthropicMessages):
                raise ApiError(401, "invalid x-api-key" if key else "x-api-key header is required")
            if isinstance(wire, Gemini):
                raise ApiError(400, "API key not valid. Please pass a valid API key.")
            if isinstance(wire, BedrockConverse):
                text = "The security token included in the request is invalid."
                raise ApiError(403, text, kind="UnrecognizedClientException")
            if not key:
                raise ApiError(401, "You didn't provide an API key. Send it as `Authorization: Bearer YOUR_KEY`.")
            raise ApiError(401, f"Incorrect API key provided: {key[:3]}***. It is the one given with --api-key.")
        return key

    async def _count_tokens(self, asked: _Asked) -> ASGIApp:
        call = self._counting.parse(asked.fields)
        self._apply_faults(asked, NO_FAULTS, call.prompt.model)
        self._fail(asked, streaming=False)
        headers = {self._messages.request_id_header: asked.ids.make("req_")}
        return Delivery({"input_tokens": tokens.of_prompt(call.prompt.segments)}, headers, asked.faults)

    async def _embeddings(self, asked: _Asked) -> ASGIApp:
        call = embeddings.parse(asked.fields)
        self._apply_faults(asked, NO_FAULTS, call.model)
        self._fail(asked, streaming=False)
        asked.usage = Usage(call.input_tokens, 0)
        headers = {self._chat.request_id_header: asked.ids.make("req_")}
        return Delivery(embeddings.body(call, asked.faults), headers, asked.faults)

    async def _list_models(self, request: Request) -> _Json:
        models = [_model(name, request) for name in self._script.models]
        if "anthropic-version" in request.headers:
            ends = {"first_id": self._script.models[0], "last_id": self._script.models[-1]} if models else {}
            return _Json({"data": models, "has_more": False, **ends})
        return _Json({"object": "list", "data": models})

    async def _show_model(self, request: Request) -> _Json:
        return _Json(_model(request.path_params["model"], request))

    async def _requests(self, request: Request) -> _Json:
        if request.method == "DELETE":
            self._record.clear()
            self._responder.clear()
            self._cache.clear()
            return _Json({"deleted": True})
        limit = request.query_params.get("limit", str(MAX_REQUESTS))
        if not limit.isdecimal():
            return _Json({"error": {"message": f"limit must be a whole number, got {limit!r}"}}, 400)
        return _Json(self._record.newest(int(limit)))

    async def _stats(self, request: Request) -> _Json:  # noqa: ARG002  # Starlette passes it
        return _Json(self._record.totals())

    async def _health(self, request: Request) -> _Json:  # noqa: ARG002  # Starlette passes it
        return _Json({"status": "ok"})

    async def _no_such_route(self, request: Request, fault: Exception) -> _Json:
        status = fault.status_code if isinstance(fault, HTTPException) else 500
        text = f"Unknown request URL: {request.method} {request.url.path}. The model server has /v1/chat/completions, "
        text += "/v1/responses, /v1/embeddings, /v1/models, /v1/messages, /v1/messages/count_tokens, "
        text += "/v1beta/models/MODEL:generateContent (and :streamGenerateContent) and /model/MODEL/converse (and "
        text += "-stream)."
        wires: dict[str, Wire] = {"/v1/messages": self._messages, "/v1beta/": self._gemini, "/model/": self._bedrock}
        path = request.url.path
        wire = next((wire for start, wire in wires.items() if path.startswith(start)), self._chat)
        request_id = Ids(b"", next(self._sequence)).make("req_")
        error = ApiError(status, text, code="unknown_url")
        return _Json(wire.error(error, request_id), status, {wire.request_id_header: request_id})


def run(
    host: str = "127.0.0.1",
    port: int = 9000,
    script_path: Path | None = None,
    *,
    defaults: Faults = NO_FAULTS,
    api_key: str | None = None,
    announce: Callable[[str], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; port 0 takes a free one.

    `announce` gets the line `model server listening on http://HOST:PORT` once connections are accepted (by default it
    goes to standard output, flushed). Raises `ModelServerError` if the script is wrong or the port taken.
    """
    loaded = script.load(script_path) if script_path is not None else Script()
    listener = _listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    line = f"model server listening on http://{shown}:{listener.getsockname()[1]}"
    app = ModelServer(loaded, defaults, api_key).app()
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=0,
    )
    server = _Server(config, lambda: (announce or _print)(line))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(server.serve(sockets=[listener]))


class _Json(JSONResponse):
    """JSON in ASCII, so that half a surrogate pair that a client sent can be shown again."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content).encode()


class _Protocol(HttpToolsProtocol):
    """HTTP that lets a response reach its socket, to cut it."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {TRANSPORT: self.transport}  # type: ignore[dict-item]  # our own extension


class _Server(uvicorn.Server):
    """A server that says when it is ready, and ends at once, with status 0, when told to."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop)
        yield

    def _stop(self) -> None:
        self.should_exit = True
        self.force_exit = True  # open streams are not waited for, and that they end is no error
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except (OSError, OverflowError) as fault:
        listener.close()
        reason = (isinstance(fault, OSError) and fault.strerror) or str(fault)
        raise ModelServerError(
            f"cannot listen on {host}:{port} ({reason}); choose another with --port, 0 takes a free one"
        ) from fault
    return listener


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def _body(request: Request) -> bytes:
    """Return the whole body; raises `ApiError` 413 above 64 MiB."""
    data = bytearray()
    try:
        async for chunk in request.stream():
            data += chunk
            if len(data) > MAX_BODY_BYTES:
                raise ApiError(413, f"Request exceeds the maximum size of {MAX_BODY_BYTES} bytes; send a smaller one.")
    except ClientDisconnect as fault:
        raise ApiError(400, "The connection was closed before the whole body had come.") from fault
    return bytes(data)


def _json_object(body: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(body)
    except ValueError as fault:
        raise ApiError(400, f"We could not parse the JSON body of your request: {fault}") from fault
    if not isinstance(value, dict):
        raise ApiError(400, "The JSON body of a request must be an object.")
    return value


def _key(request: Request) -> str:
    """Return the API key of a request, however it came; empty if none."""
    headers = request.headers
    bearer = headers.get("authorization", "")
    given = headers.get("x-api-key") or headers.get("api-key") or headers.get("x-goog-api-key")
    given = given or request.query_params.get("key")  # Google takes it so
    return given or bearer.removeprefix("Bearer ").strip()


def _asked_error(wanted: Faults) -> ApiError:
    status = wanted.error or 500
    return ApiError(status, f"Error {status}, as asked of the model server.", kind=wanted.error_type)


def _model(name: str, request: Request) -> dict[str, Any]:
    if "anthropic-version" in request.headers:
        return {
            "type": "model",
            "id": name,
            "display_name": name,
            "created_at": "2025-06-15T15:06:40Z",
            "lifecycle": "active",
        }
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": "model-server"}
