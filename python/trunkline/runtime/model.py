"""Model calls, through the gateway: it puts in the agent's instructions and memory, and carries out memory tools."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import aiohttp

from trunkline.domain import ids
from trunkline.errors import Forbidden, NotFound
from trunkline.memory.proposals import PROPOSAL_SYSTEM, PROPOSAL_TOKENS, PROPOSAL_TOOL
from trunkline.runtime.compaction import SUMMARY_SYSTEM, SUMMARY_TOKENS
from trunkline.runtime.context import Message
from trunkline.runtime.credentials import Credentials

MAX_TOKENS: Final = 8192
"""Of one answer: the most that all models of the last years take."""

_FIRST_BYTE_SECONDS: Final = 660.0
"""A little longer than the gateway waits for a provider, so that the gateway's own error comes first."""

_AGAIN_SECONDS: Final = 0.5
_STARTING_SECONDS: Final = 60
"""How long a gateway may be away that drains and is started again."""
_NEVER_SENT: Final = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)


@dataclass(frozen=True, slots=True)
class Asker:
    """For whom a model is asked. `key` is the idempotency key: who asks again under it is given what was paid for.

    `key_id` is the key in whose name, and under whose limits, it is asked; None: the tenant's.
    """

    key: str | None
    tenant_id: UUID
    user_id: str | None
    key_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """One model call: for whom, as which agent, in which session, and the conversation so far."""

    asker: Asker
    agent_id: UUID
    agent_version: int
    agent_name: str
    session_id: UUID
    messages: Sequence[Message]
    tools: Sequence[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The model calls one of the client's tools."""

    name: str
    input: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model answered. `usage` is that of the Anthropic wire; `refused`: a classifier ended the answer."""

    text: str
    calls: tuple[ToolCall, ...]
    refused: bool
    usage: dict[str, int]
    cost_nano: int | None = None
    """What it cost, in billionths of a US dollar; None: the model has no price."""
    paid_as: UUID | None = None
    """The call whose answer this is, given again for nothing; None: this one's."""


class ModelError(Exception):
    """A model call failed. `type` is the Managed Agents name; `transient`: the same call may succeed later.

    `refused`: it is known to have cost nothing, since no model was asked or it answered with an error.
    """

    def __init__(
        self,
        kind: str,
        message: str,
        *,
        transient: bool,
        retry_after_s: float | None = None,
        refused: bool = False,
    ) -> None:
        super().__init__(message)
        self.type = kind
        self.message = message
        self.transient = transient
        self.retry_after_s = retry_after_s
        self.refused = refused


@dataclass(frozen=True, slots=True)
class _Response:
    status: int
    headers: Mapping[str, str]
    """Names in any case."""
    body: bytes


def request(
    agent_name: str, user_id: str | None, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return what is asked of an agent's model, in the Anthropic wire; the gateway adds the rest."""
    body: dict[str, Any] = {
        "model": f"agent/{agent_name}",
        "max_tokens": MAX_TOKENS,
        "messages": messages,
        **_user_in_body(user_id),
    }
    return body | {"tools": tools} if tools else body


def encoded(body: Mapping[str, Any]) -> bytes:
    """Return the same bytes from every worker: what one reads from the log has its keys in another order."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _fits_header(user_id: str) -> bool:
    return user_id.isprintable() and user_id == user_id.strip()


def _user_in_body(user_id: str | None) -> dict[str, Any]:
    return {} if user_id is None or _fits_header(user_id) else {"metadata": {"user_id": user_id}}


class Model:
    """The gateway, as the runtime asks it. Safe for many sessions at once on one event loop."""

    def __init__(self, http: aiohttp.ClientSession, base_url: str, credentials: Credentials) -> None:
        self._http = http
        self._base_url = base_url
        self._credentials = credentials

    async def ask(self, question: Question) -> Reply:
        """Return the model's answer. Raises ModelError; Unavailable when a key is needed and the database is away."""
        headers = {
            "x-trunkline-agent": ids.encode("agent", question.agent_id),
            "x-trunkline-agent-version": str(question.agent_version),
            "x-trunkline-session": ids.encode("sesn", question.session_id),
        }
        body = request(question.agent_name, question.asker.user_id, question.messages, question.tools)
        return await self._answer(question.asker, body, headers)

    async def sum_up(self, asker: Asker, model: str, text: str) -> Reply:
        """Return a summary of `text` by a configured model, as a call of no agent. Raises as `ask`, also for none."""
        body: dict[str, Any] = {
            "model": model,
            "max_tokens": SUMMARY_TOKENS,
            "system": SUMMARY_SYSTEM,
            "messages": [{"role": "user", "content": text}],
            **_user_in_body(asker.user_id),
        }
        reply = await self._answer(asker, body, {})
        if not reply.text.strip():
            raise ModelError("model_request_failed_error", f"The model {model!r} wrote no summary.", transient=False)
        return reply

    async def propose(self, asker: Asker, model: str, text: str) -> Reply:
        """Return what a configured model proposes for memory, as a call of no agent. Raises as `ask`."""
        body: dict[str, Any] = {
            "model": model,
            "max_tokens": PROPOSAL_TOKENS,
            "system": PROPOSAL_SYSTEM,
            "messages": [{"role": "user", "content": text}],
            "tools": [PROPOSAL_TOOL],
            "tool_choice": {"type": "tool", "name": PROPOSAL_TOOL["name"]},
            **_user_in_body(asker.user_id),
        }
        return await self._answer(asker, body, {})

    async def _answer(self, asker: Asker, body: dict[str, Any], headers: dict[str, str]) -> Reply:
        try:
            key = await self._credentials.key(asker.tenant_id, asker.key_id)
        except (Forbidden, NotFound) as error:
            raise ModelError("model_request_failed_error", error.message, transient=False, refused=True) from error
        headers["x-api-key"] = key
        if asker.key is not None:
            headers["idempotency-key"] = asker.key
        if asker.user_id is not None and _fits_header(asker.user_id):
            headers["x-trunkline-user"] = asker.user_id
        try:
            response = await self._post(body, headers)
        except aiohttp.ClientError as error:
            message = f"The gateway at {self._base_url} did not answer: {type(error).__name__}."
            refused = isinstance(error, _NEVER_SENT)
            raise ModelError("model_request_failed_error", message, transient=True, refused=refused) from error
        if response.status == 401:
            self._credentials.forget(asker.tenant_id, key, asker.key_id)
        if response.status != 200:
            raise _error(response)
        return _reply(response)

    async def _post(self, body: dict[str, Any], headers: dict[str, str]) -> _Response:
        """Send a call, again while the gateway is being started, or cannot tell yet what became of the call before.

        Without an idempotency key it is not sent again once the gateway may have had it.
        """
        content = encoded(body)
        lost = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError)
        again = lost if "idempotency-key" in headers else _NEVER_SENT
        url = f"{self._base_url}/v1/messages"
        give_up = time.monotonic() + _STARTING_SECONDS
        while True:
            try:
                async with self._http.post(url, data=content, headers=headers, allow_redirects=False) as answer:
                    response = _Response(answer.status, answer.headers, await answer.read())
            except aiohttp.SocketTimeoutError:
                raise
            except again:
                if time.monotonic() > give_up:
                    raise
            else:
                if response.status == 409 and "retry-after" in response.headers:
                    give_up = time.monotonic() + _STARTING_SECONDS  # the call before is still under way
                elif not _is_away(response) or time.monotonic() > give_up:
                    return response
            await asyncio.sleep(_AGAIN_SECONDS)


@asynccontextmanager
async def open_model(base_url: str, credentials: Credentials) -> AsyncIterator[Model]:
    """Open connections to the gateway at `base_url`, and close them at the end."""
    # Not httpx: at 50 calls at once it takes 1.4 ms of processor time a call, at 500 it takes 5; this one 0.2.
    async with aiohttp.ClientSession(
        headers={"anthropic-version": "2023-06-01", "content-type": "application/json"},
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=_FIRST_BYTE_SECONDS),
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as http:
        yield Model(http, base_url.rstrip("/"), credentials)


def _is_away(response: _Response) -> bool:
    """Tell whether the gateway itself cannot serve at the moment, as without Postgres."""
    headers = response.headers
    return response.status == 503 and "retry-after" in headers and "x-trunkline-upstream" not in headers


def _error(response: _Response) -> ModelError:
    status = response.status
    try:
        message = str(json.loads(response.body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"The gateway answered with status {status}."
    match status:
        case 429:
            kind = "model_rate_limited_error"
        case 402:
            kind = "billing_error"
        case 503 | 529:
            kind = "model_overloaded_error"
        case _:
            kind = "model_request_failed_error"
    # 401: of our own key, which another call of this method replaces. 409, 422: the step's idempotency key cannot be
    # used again, but that of the next step can.
    transient = status >= 500 or status in (401, 408, 409, 422, 425, 429)
    # What was asked before under the key of a 409 or 422 may have been answered.
    refused = status not in (409, 422)
    return ModelError(kind, message, transient=transient, retry_after_s=_retry_after(response), refused=refused)


def _retry_after(response: _Response) -> float | None:
    try:
        return max(0.0, float(response.headers["retry-after"]))
    except (KeyError, ValueError):
        return None


def _reply(response: _Response) -> Reply:
    """Read an answer. Raises ModelError when it is none."""
    try:
        answer = json.loads(response.body)
        blocks = answer["content"]
        text = "".join(block["text"] for block in blocks if block["type"] == "text")
        calls = tuple(ToolCall(block["name"], block["input"]) for block in blocks if block["type"] == "tool_use")
        usage = {name: count for name, count in answer["usage"].items() if isinstance(count, int)}
        cost = response.headers.get("x-trunkline-cost")
        cost_nano = None if cost is None else int((Decimal(cost) * 10**9).to_integral_value())
        first = response.headers.get("x-trunkline-replayed")
        paid_as = None if first is None else ids.decode("call", first)
        return Reply(text, calls, answer["stop_reason"] == "refusal", usage, cost_nano, paid_as)
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, NotFound) as error:
        raise ModelError(
            "model_request_failed_error", "The gateway's answer is not an Anthropic message.", transient=False
        ) from error
