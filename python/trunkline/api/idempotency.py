"""`Idempotency-Key`: a POST sent twice with one key is carried out once and answered twice."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request
from starlette.responses import JSONResponse

from trunkline.api.deps import Caller
from trunkline.domain.times import now
from trunkline.errors import Conflict, InvalidRequest
from trunkline.store import idempotency

Answer = dict[str, Any]


async def once(
    request: Request,
    caller: Caller,
    act: Callable[[], Awaitable[Answer]],
    *,
    keep: Callable[[Answer], Answer] = lambda answer: answer,
    recall: Callable[[Answer], Awaitable[Answer]] | None = None,
    of: bytes | None = None,
) -> Answer:
    """Carry out `act` and return its answer; if the idempotency key was used before, return what it gave then.

    Keys belong to the tenant and are kept for a day. `keep` makes of the answer what is stored with the key: what users
    said is not, so that erasing it where it belongs erases it; `recall` makes an answer of that again. `of`
    stands for the body where its bytes are not the same each time it is sent. Raises Conflict when the key came with
    another request before.
    """
    key = request.headers.get("idempotency-key")
    if key is None:
        return await act()
    if not 1 <= len(key) <= 255:
        raise InvalidRequest("An idempotency key has 1 to 255 characters.", param="idempotency-key")
    tenant_id = caller.principal.tenant_id
    digest = await _digest(request, caller, of)
    kept = await idempotency.claim(caller.connection, tenant_id, key, digest, now())
    if kept is None:
        answer = await act()
        await idempotency.complete(caller.connection, tenant_id, key, digest, keep(answer))
        return answer
    if kept["request"] != digest:
        raise Conflict(
            "This idempotency key was used for another request less than a day ago; send a new key with a new request.",
            param="idempotency-key",
            code="idempotency_key_reused",
        )
    earlier: Answer = kept["answer"]
    return earlier if recall is None else await recall(earlier)


Endpoint = Callable[..., Awaitable[JSONResponse]]


def idempotent(*without: str) -> Callable[[Endpoint], Endpoint]:
    """Return what makes a route with a `caller` one that is carried out `once`, whatever it does.

    `without` names members of the answer that are null when it is given again: what they say is not kept.
    """

    def kept(answer: Answer) -> Answer:
        return {name: None if name in without else value for name, value in answer.items()}

    def wrap(endpoint: Endpoint) -> Endpoint:
        # FastAPI reads the signature: it is the endpoint's, and the request, which the endpoint may not ask for itself.
        signature = inspect.signature(endpoint, eval_str=True)
        asks = "request" in signature.parameters

        @functools.wraps(endpoint)
        async def route(*, request: Request, caller: Caller, **given: Any) -> JSONResponse:
            async def act() -> Answer:
                if asks:
                    given["request"] = request
                answer: Answer = json.loads(bytes((await endpoint(caller=caller, **given)).body))
                return answer

            return JSONResponse(await once(request, caller, act, keep=kept))

        named = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in signature.parameters.values()]
        if not asks:
            named.append(inspect.Parameter("request", inspect.Parameter.KEYWORD_ONLY, annotation=Request))
        route.__signature__ = signature.replace(parameters=named)  # type: ignore[attr-defined]
        return route

    return wrap


async def _digest(request: Request, caller: Caller, of: bytes | None) -> str:
    """Return what tells requests apart: who asks, for what, and with which bytes (`of`, or the body's)."""
    digest = hashlib.sha256()
    for part in (
        caller.principal.key_id.bytes,
        request.method.encode(),
        request.url.path.encode(),
        request.url.query.encode(),
    ):
        digest.update(part + b"\0")
    digest.update(await request.body() if of is None else of)
    return digest.hexdigest()
