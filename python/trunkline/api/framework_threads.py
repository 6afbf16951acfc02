"""Threads: what agent frameworks keep of a conversation, under their own names. Trunkline's addition to the wire."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from starlette.responses import JSONResponse

from trunkline.api import paging
from trunkline.api.idempotency import once
from trunkline.api.memory_caller import MemoryCaller, UserId, no_nul
from trunkline.domain import ids
from trunkline.domain.threads import Thread
from trunkline.domain.times import now
from trunkline.errors import Conflict, InvalidRequest, TooLarge
from trunkline.store import sessions, threads
from trunkline.store.threads import ThreadFilter

router = APIRouter(prefix="/v1/threads", tags=["framework threads"])

MAX_NAME: Final = 1024
MAX_ITEMS: Final = 10_000
"""Items of one request."""
MAX_ITEM: Final = 4 * 1024 * 1024
"""Bytes of one item as JSON."""
MAX_PAGE: Final = 16 * 1024 * 1024
"""Bytes of the items of a page, but for the first."""


def _within_name(text: str) -> str:
    if len(text.encode()) > MAX_NAME:
        raise ValueError(f"must have at most {MAX_NAME} bytes")
    return no_nul(text)


Framework = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME), AfterValidator(_within_name)]


class NewThread(BaseModel):
    """A thread by the framework's own name. `session_id`: the session that it is deleted with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    framework: Framework
    name: Name
    user_id: UserId | None = None
    session_id: str | None = None


class Items(BaseModel):
    """Items in the order of the conversation, each a JSON object that is given back as it came."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    items: Annotated[list[dict[str, Any]], Field(max_length=MAX_ITEMS)]


@router.post("")
async def open_thread(given: NewThread, caller: MemoryCaller) -> JSONResponse:
    """Return the thread of this framework and name; there is one from now on.

    A thread that is nobody's becomes the user's and the session's that are given. 409 `other_subject` when it is
    another user's, or goes with another session.
    """
    principal = caller.principal
    session = None if given.session_id is None else ids.decode("sesn", given.session_id)
    if session is not None:
        await sessions.get(caller.connection, principal, session)
    new = Thread(ids.new(), principal.agent_id, given.framework, given.name, given.user_id, session, now())
    thread = await threads.named(caller.connection, principal.tenant_id, new)
    for what, asked, there in (
        ("user", given.user_id, thread.user_id),
        ("session", session, thread.session_id),
    ):
        if asked is not None and asked != there:
            raise Conflict(
                f"The {given.framework} thread of this name belongs to another {what}; choose another name.",
                param=f"{what}_id",
                code="other_subject",
            )
    return JSONResponse(thread.to_wire())


@router.get("")
async def list_threads(
    caller: MemoryCaller,
    *,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    page: str | None = None,
    framework: Framework | None = None,
    name: Name | None = None,
    user_id: UserId | None = None,
    session_id: str | None = None,
) -> JSONResponse:
    """List threads, newest first; with `name`, the one that this key would open, for this user if one is given."""
    session = None if session_id is None else ids.decode("sesn", session_id)
    wanted = ThreadFilter(framework, name, user_id, session)
    found = await threads.page(caller.connection, caller.principal, wanted, paging.read_time(page), limit + 1)
    return JSONResponse(
        paging.page(found, limit, Thread.to_wire, lambda thread: paging.at_time(thread.created_at, thread.id))
    )


@router.get("/{framework_thread_id}")
async def retrieve(framework_thread_id: str, caller: MemoryCaller) -> JSONResponse:
    """Get a thread."""
    thread = await threads.get(caller.connection, caller.principal, ids.decode("thread", framework_thread_id))
    return JSONResponse(thread.to_wire())


@router.delete("/{framework_thread_id}")
async def delete(framework_thread_id: str, caller: MemoryCaller) -> JSONResponse:
    """Delete a thread with its items and checkpoints."""
    found = ids.decode("thread", framework_thread_id)
    await threads.delete(caller.connection, caller.principal, found)
    return JSONResponse({"id": ids.encode("thread", found), "type": "thread_deleted"})


@router.post("/{framework_thread_id}/items")
async def append(request: Request, framework_thread_id: str, given: Items, caller: MemoryCaller) -> JSONResponse:
    """Append items, all or none. The answer tells the number of the last."""
    return JSONResponse(await _write(request, framework_thread_id, given, caller, replace=False))


@router.put("/{framework_thread_id}/items")
async def replace(request: Request, framework_thread_id: str, given: Items, caller: MemoryCaller) -> JSONResponse:
    """Put items in the place of all that a thread has."""
    return JSONResponse(await _write(request, framework_thread_id, given, caller, replace=True))


@router.get("/{framework_thread_id}/items")
async def list_items(
    framework_thread_id: str,
    caller: MemoryCaller,
    *,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    page: str | None = None,
    order: Literal["asc", "desc"] = "asc",
) -> JSONResponse:
    """List a thread's items in their order, or backwards. A page ends early where its items are large."""
    thread = await threads.get(caller.connection, caller.principal, ids.decode("thread", framework_thread_id))
    found, more = await threads.items(
        caller.connection,
        caller.principal.tenant_id,
        thread.id,
        after=paging.read_number(page),
        limit=limit,
        max_bytes=MAX_PAGE,
        newest_first=order == "desc",
    )
    return JSONResponse(
        {
            "data": [item.to_wire() for item in found],
            "next_page": paging.at_number(found[-1].seq) if more else None,
        }
    )


@router.post("/{framework_thread_id}/items/pop")
async def pop(request: Request, framework_thread_id: str, caller: MemoryCaller) -> JSONResponse:
    """Take the newest item back: delete it and return it. `item` is null where there is none."""
    thread = ids.decode("thread", framework_thread_id)

    async def act() -> dict[str, Any]:
        await threads.lock(caller.connection, caller.principal, thread)
        item = await threads.pop(caller.connection, caller.principal.tenant_id, thread)
        return {"type": "thread_item_popped", "item": None if item is None else item.item}

    async def recall(kept: dict[str, Any]) -> dict[str, Any]:
        if kept["popped"]:
            raise Conflict(
                "This request took an item back before, and what that said is not kept. Nothing was taken now.",
                param="idempotency-key",
                code="shown_once",
            )
        return {"type": "thread_item_popped", "item": None}

    def keep(answer: dict[str, Any]) -> dict[str, Any]:
        return {"popped": answer["item"] is not None}

    return JSONResponse(await once(request, caller, act, keep=keep, recall=recall))


@router.delete("/{framework_thread_id}/items")
async def clear(framework_thread_id: str, caller: MemoryCaller) -> JSONResponse:
    """Delete all items of a thread."""
    thread = ids.decode("thread", framework_thread_id)
    await threads.lock(caller.connection, caller.principal, thread)
    await threads.clear(caller.connection, caller.principal.tenant_id, thread)
    return JSONResponse({"id": ids.encode("thread", thread), "type": "thread_items_deleted"})


async def _write(
    request: Request, framework_thread_id: str, given: Items, caller: MemoryCaller, *, replace: bool
) -> dict[str, Any]:
    thread = ids.decode("thread", framework_thread_id)
    texts = [_text(number, item) for number, item in enumerate(given.items)]

    async def act() -> dict[str, Any]:
        connection, tenant_id = caller.connection, caller.principal.tenant_id
        last = await threads.lock(connection, caller.principal, thread)
        if replace:
            await threads.clear(connection, tenant_id, thread)
        await threads.append(connection, tenant_id, thread, last_seq=last, items=texts, at=now())
        return {"type": "thread_items_written", "last_seq": last + len(texts)}

    return await once(request, caller, act)


def _text(number: int, item: dict[str, Any]) -> str:
    """Return an item as the text that is kept. Raises TooLarge, InvalidRequest."""
    try:
        text = json.dumps(item, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError as error:  # 1e999 is read as infinity
        raise InvalidRequest(
            f"items[{number}] has a number that is too large to be kept.", param=f"items[{number}]"
        ) from error
    if len(text.encode()) > MAX_ITEM:
        raise TooLarge(
            f"items[{number}] has more than {MAX_ITEM} bytes; keep large content elsewhere and refer to it.",
            param=f"items[{number}]",
            details={"limit_bytes": MAX_ITEM},
        )
    return text
