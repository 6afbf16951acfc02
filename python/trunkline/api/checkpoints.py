"""Checkpoints of a thread: the state of a graph after each step. Trunkline's addition to the wire.

Payloads are bytes in base64 that only the graph's own serializer reads.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Path, Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from starlette.responses import JSONResponse

from trunkline.api.deps import Caller
from trunkline.api.idempotency import idempotent
from trunkline.api.memory_caller import MemoryCaller, UserId, no_nul
from trunkline.domain import ids
from trunkline.domain.checkpoints import MAX_PAYLOAD, MAX_STATE, ChannelValue, Checkpoint, Payload, Write
from trunkline.domain.times import now
from trunkline.errors import Conflict, InvalidRequest, NotFound, TooLarge
from trunkline.store import checkpoints, threads
from trunkline.store.checkpoints import CheckpointFilter, Listed

router = APIRouter(prefix="/v1/threads", tags=["framework threads"])

MAX_AT_ONCE: Final = 10_000
"""Channels of a checkpoint, and writes of a request."""
MAX_WRITES: Final = 10_000
"""Writes that wait at a checkpoint."""
MAX_METADATA: Final = 64 * 1024


def _within(limit: int) -> Callable[[str], str]:
    def check(text: str) -> str:
        if len(text.encode()) > limit:
            raise ValueError(f"must have at most {limit} bytes")
        return no_nul(text)

    return check


# Together they are the key of an index, whose rows have at most 2,704 bytes.
Namespace = Annotated[str, StringConstraints(max_length=1024), AfterValidator(_within(1024))]
CheckpointId = Annotated[str, StringConstraints(min_length=1, max_length=128), AfterValidator(_within(128))]
Channel = Annotated[str, StringConstraints(min_length=1, max_length=512), AfterValidator(_within(512))]
Version = Annotated[str, StringConstraints(min_length=1, max_length=128), AfterValidator(_within(128))]
Kind = Annotated[str, StringConstraints(min_length=1, max_length=64), AfterValidator(_within(64))]
TaskPath = Annotated[str, StringConstraints(max_length=4096), AfterValidator(_within(4096))]


class GivenPayload(BaseModel):
    """Bytes in base64, and the name of the form that they are in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    data: str

    def read(self, where: str) -> Payload:
        """Return the bytes. Raises InvalidRequest, TooLarge."""
        try:
            data = base64.b64decode(self.data, validate=True)
        except (binascii.Error, ValueError) as error:
            raise InvalidRequest(f"`{where}` is not base64: {error}.", param=where) from error
        if len(data) > MAX_PAYLOAD:
            raise TooLarge(
                f"`{where}` has {len(data)} bytes; at most {MAX_PAYLOAD} are kept in one payload. Keep large content "
                "elsewhere and refer to it.",
                param=where,
                details={"limit_bytes": MAX_PAYLOAD},
            )
        return Payload(self.kind, data)


class GivenChannel(GivenPayload):
    """What a channel holds at a version."""

    channel: Channel
    version: Version


class GivenWrite(GivenPayload):
    """What a task wrote to a channel; at the places below 0, later ones replace what is there."""

    idx: Annotated[int, Field(ge=-100, lt=2**31)]
    channel: Channel


class NewCheckpoint(BaseModel):
    """A checkpoint: `channels` has the version of each channel, `values` what is new of what they hold."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: CheckpointId
    namespace: Namespace = ""
    parent_id: CheckpointId | None = None
    payload: GivenPayload
    metadata: dict[str, Any] = {}
    channels: Annotated[dict[Channel, Version], Field(max_length=MAX_AT_ONCE)] = {}
    values: Annotated[list[GivenChannel], Field(max_length=MAX_AT_ONCE)] = []


class NewWrites(BaseModel):
    """What one task of the step after a checkpoint wrote so far."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    namespace: Namespace = ""
    task_id: CheckpointId
    task_path: TaskPath = ""
    writes: Annotated[list[GivenWrite], Field(min_length=1, max_length=MAX_AT_ONCE)]


class CopyTo(BaseModel):
    """The thread to copy to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    thread_id: str


class Runs(BaseModel):
    """Runs whose checkpoints are to go: `run_id` in their metadata; only in the threads of a user, if one is given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_ids: Annotated[list[CheckpointId], Field(max_length=MAX_AT_ONCE)]
    user_id: UserId | None = None


@router.post("/{framework_thread_id}/checkpoints")
@idempotent()
async def put(framework_thread_id: str, given: NewCheckpoint, caller: MemoryCaller) -> JSONResponse:
    """Keep a checkpoint, in the place of one of its id. 413 where it is over the bounds."""
    thread = ids.decode("thread", framework_thread_id)
    if len(json.dumps(given.metadata, ensure_ascii=False).encode()) > MAX_METADATA:
        raise TooLarge(
            f"The metadata have more than {MAX_METADATA} bytes as JSON; put less into the run's config.",
            param="metadata",
            details={"limit_bytes": MAX_METADATA},
        )
    new = Checkpoint(
        given.namespace,
        given.id,
        given.parent_id,
        given.payload.read("payload"),
        given.metadata,
        given.channels,
        now(),
    )
    values = [
        ChannelValue(given.namespace, value.channel, value.version, value.read(f"values[{number}]"))
        for number, value in enumerate(given.values)
    ]
    await threads.keep(caller.connection, caller.principal, thread)
    size = await checkpoints.put(caller.connection, caller.principal.tenant_id, thread, new, values)
    _refuse_large(size, "The checkpoint with what its channels hold")
    return JSONResponse({"type": "checkpoint_kept", "id": new.id, "namespace": new.namespace, "bytes": size})


@router.get("/{framework_thread_id}/checkpoints")
async def list_checkpoints(
    framework_thread_id: str,
    caller: MemoryCaller,
    *,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    page: str | None = None,
    namespace: Namespace | None = None,
    checkpoint_id: CheckpointId | None = None,
    before: CheckpointId | None = None,
    metadata: Annotated[
        str | None, Query(max_length=8192, description="a JSON object: members that must be equal")
    ] = None,
) -> JSONResponse:
    """List checkpoints, newest first, with their pending writes; `values` has what their channels hold, each once.

    A page ends early where its checkpoints are large.
    """
    wanted = CheckpointFilter(namespace, checkpoint_id, before, _members(metadata))
    return JSONResponse(
        await _page(caller, ids.decode("thread", framework_thread_id), wanted, _read_position(page), limit)
    )


@router.get("/{framework_thread_id}/checkpoints/{checkpoint_id}")
async def retrieve(
    framework_thread_id: str,
    checkpoint_id: Annotated[CheckpointId, Path()],
    caller: MemoryCaller,
    namespace: Namespace = "",
) -> JSONResponse:
    """Get a checkpoint, as a list of one. 404 where there is none of this id in the namespace."""
    thread = ids.decode("thread", framework_thread_id)
    found = await _page(caller, thread, CheckpointFilter(namespace, checkpoint_id), None, 1)
    if not found["data"]:
        raise NotFound(
            f"The thread has no checkpoint {checkpoint_id!r} in the namespace {namespace!r}.",
            code="no_checkpoint",
        )
    return JSONResponse(found)


@router.post("/{framework_thread_id}/checkpoints/{checkpoint_id}/writes")
@idempotent()
async def put_writes(
    framework_thread_id: str, checkpoint_id: Annotated[CheckpointId, Path()], given: NewWrites, caller: MemoryCaller
) -> JSONResponse:
    """Keep what a task wrote after a checkpoint, which may itself come later. A place that is taken stays as it is."""
    thread = ids.decode("thread", framework_thread_id)
    new = [
        Write(given.task_id, given.task_path, write.idx, write.channel, write.read(f"writes[{number}]"))
        for number, write in enumerate(given.writes)
    ]
    await threads.keep(caller.connection, caller.principal, thread)
    count, size = await checkpoints.put_writes(
        caller.connection,
        caller.principal.tenant_id,
        thread,
        new,
        namespace=given.namespace,
        checkpoint_id=checkpoint_id,
    )
    if count > MAX_WRITES:
        raise TooLarge(
            f"{count} writes would wait at this checkpoint; at most {MAX_WRITES} are kept.",
            param="writes",
            details={"limit_writes": MAX_WRITES},
        )
    _refuse_large(size, "The writes that wait at this checkpoint")
    return JSONResponse({"type": "checkpoint_writes_kept", "writes": count, "bytes": size})


@router.post("/{framework_thread_id}/prune")
@idempotent()
async def prune(framework_thread_id: str, caller: MemoryCaller) -> JSONResponse:
    """Delete all checkpoints but the newest of each namespace, and those that it is rebuilt from."""
    thread = ids.decode("thread", framework_thread_id)
    await threads.lock(caller.connection, caller.principal, thread)
    deleted = await checkpoints.prune(caller.connection, caller.principal.tenant_id, thread)
    return JSONResponse({"type": "checkpoints_deleted", "deleted": deleted})


@router.post("/{framework_thread_id}/copy")
@idempotent()
async def copy(framework_thread_id: str, given: CopyTo, caller: MemoryCaller) -> JSONResponse:
    """Copy a thread's checkpoints, with all that belongs to them, to another thread; what is there already stays.

    The copy is the same user's and session's, and goes when they are erased: 409 `other_subject` where it cannot be.
    """
    connection, principal = caller.connection, caller.principal
    source_id, target_id = ids.decode("thread", framework_thread_id), ids.decode("thread", given.thread_id)
    for thread in sorted((source_id, target_id)):
        await threads.keep(connection, principal, thread)
    source = await threads.get(connection, principal, source_id)
    target = await threads.get(connection, principal, target_id)
    copied = await threads.named(
        connection, principal.tenant_id, replace(target, user_id=source.user_id, session_id=source.session_id)
    )
    if (copied.user_id, copied.session_id) != (source.user_id, source.session_id):
        raise Conflict(
            "The thread to copy to belongs to another user or session; choose another.",
            param="thread_id",
            code="other_subject",
        )
    await checkpoints.copy(connection, principal.tenant_id, source_id, target_id)
    return JSONResponse({"type": "checkpoints_copied", "thread_id": given.thread_id})


@router.post("/delete_runs")
@idempotent()
async def delete_runs(given: Runs, caller: MemoryCaller) -> JSONResponse:
    """Delete the checkpoints of runs, with their writes, in all threads."""
    deleted = await checkpoints.delete_runs(caller.connection, caller.principal, given.run_ids, given.user_id)
    return JSONResponse({"type": "checkpoints_deleted", "deleted": deleted})


async def _page(
    caller: Caller, thread_id: UUID, wanted: CheckpointFilter, after: tuple[str, str] | None, limit: int
) -> dict[str, Any]:
    connection, tenant_id = caller.connection, caller.principal.tenant_id
    await threads.get(connection, caller.principal, thread_id)
    found = await checkpoints.page(connection, tenant_id, thread_id, wanted, after=after, limit=limit + 1)
    shown = [listed.checkpoint for listed in found[: _fitting(found, limit)]]
    values = await checkpoints.channels(connection, tenant_id, thread_id, shown)
    writes = await checkpoints.writes(connection, tenant_id, thread_id, shown)
    return {
        "data": [one.to_wire(writes.get((one.namespace, one.id), [])) for one in shown],
        "values": [value.to_wire() for value in values],
        "next_page": _position(shown[-1]) if len(found) > len(shown) else None,
    }


def _fitting(found: Sequence[Listed], limit: int) -> int:
    """Return how many of these go into one page: at most `limit`, and, but for the first, `MAX_STATE` bytes."""
    total = 0
    for number, listed in enumerate(found[:limit]):
        total += listed.bytes
        if number and total > MAX_STATE:
            return number
    return min(limit, len(found))


def _refuse_large(size: int, what: str) -> None:
    if size > MAX_STATE:
        raise TooLarge(
            f"{what} would have {size} bytes; at most {MAX_STATE} are kept. Keep large content elsewhere and refer to "
            "it.",
            details={"limit_bytes": MAX_STATE},
        )


def _members(text: str | None) -> dict[str, Any] | None:
    """Read the filter. Raises InvalidRequest."""
    if text is None:
        return None
    try:
        members = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("`metadata` is not JSON.", param="metadata") from error
    if not isinstance(members, dict):
        raise InvalidRequest("`metadata` must be a JSON object.", param="metadata")
    return members


def _position(checkpoint: Checkpoint) -> str:
    place = json.dumps([checkpoint.id, checkpoint.namespace], ensure_ascii=False)
    return "page_" + base64.urlsafe_b64encode(place.encode()).decode().rstrip("=")


def _read_position(text: str | None) -> tuple[str, str] | None:
    """Return the place in a position that `_position` made. Raises InvalidRequest for anything else."""
    if text is None:
        return None
    digits = text.removeprefix("page_")[:4000]
    try:
        place = json.loads(base64.b64decode(digits + "=" * (-len(digits) % 4), altchars=b"-_", validate=True))
    except (ValueError, RecursionError):
        place = None
    match place:
        case [str(checkpoint_id), str(namespace)] if "\0" not in checkpoint_id + namespace:
            return checkpoint_id, namespace
    raise InvalidRequest(
        "`page` is not a page of this list; send `next_page` of the page before as it came, or leave it out.",
        param="page",
    )
