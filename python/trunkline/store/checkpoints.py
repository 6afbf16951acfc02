"""Checkpoints of a thread, what their channels hold, and their pending writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from trunkline.domain.checkpoints import ChannelValue, Checkpoint, Payload, Write
from trunkline.domain.principal import Principal
from trunkline.store.pool import Connection
from trunkline.store.queries import queries


@dataclass(frozen=True, slots=True)
class CheckpointFilter:
    """Which checkpoints a list holds; None: no limit. `metadata`: with these members, None where there is no such."""

    namespace: str | None = None
    checkpoint_id: str | None = None
    before: str | None = None
    metadata: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Listed:
    """A checkpoint in a list, and how many bytes it has with all that belongs to it."""

    checkpoint: Checkpoint
    bytes: int


async def put(
    connection: Connection, tenant_id: UUID, thread_id: UUID, new: Checkpoint, values: Sequence[ChannelValue]
) -> int:
    """Keep a checkpoint and what it brings of its channels. Returns the bytes of its whole state."""
    namespace = new.namespace
    await connection.execute(
        queries("checkpoints")["put_checkpoint"],
        (
            tenant_id,
            thread_id,
            namespace,
            new.id,
            new.parent_id,
            new.payload.kind,
            new.payload.data,
            Jsonb(dict(new.metadata)),
            Jsonb(dict(new.channels)),
            new.created_at,
        ),
    )
    if values:
        await connection.execute(
            queries("checkpoints")["put_channels"],
            (
                tenant_id,
                thread_id,
                namespace,
                [value.channel for value in values],
                [value.version for value in values],
                [value.payload.kind for value in values],
                [value.payload.data for value in values],
            ),
        )
    cursor = await connection.execute(queries("checkpoints")["select_state"], (tenant_id, thread_id, namespace, new.id))
    row = await cursor.fetchone()
    return 0 if row is None else int(row["bytes"])


async def put_writes(
    connection: Connection,
    tenant_id: UUID,
    thread_id: UUID,
    writes: Sequence[Write],
    *,
    namespace: str,
    checkpoint_id: str,
) -> tuple[int, int]:
    """Keep what one task wrote, each place once. Returns how many writes wait at the checkpoint, and their bytes."""
    by_place: dict[int, Write] = {}
    for write in writes:
        if write.idx < 0 or write.idx not in by_place:
            by_place[write.idx] = write
    kept = list(by_place.values())
    await connection.execute(
        queries("checkpoints")["put_writes"],
        (
            tenant_id,
            thread_id,
            namespace,
            checkpoint_id,
            kept[0].task_id,
            kept[0].task_path,
            [write.idx for write in kept],
            [write.channel for write in kept],
            [write.payload.kind for write in kept],
            [write.payload.data for write in kept],
        ),
    )
    cursor = await connection.execute(
        queries("checkpoints")["select_written"], (tenant_id, thread_id, namespace, checkpoint_id)
    )
    row = await cursor.fetchone()
    return (0, 0) if row is None else (int(row["writes"]), int(row["bytes"]))


async def page(
    connection: Connection,
    tenant_id: UUID,
    thread_id: UUID,
    wanted: CheckpointFilter,
    *,
    after: tuple[str, str] | None,
    limit: int,
) -> list[Listed]:
    """Return up to `limit` checkpoints, newest first, that come after the position `(id, namespace)`."""
    checkpoint_id, namespace = after or (None, None)
    cursor = await connection.execute(
        queries("checkpoints")["list_checkpoints"],
        (
            tenant_id,
            thread_id,
            checkpoint_id,
            namespace,
            wanted.namespace,
            wanted.checkpoint_id,
            wanted.before,
            None if wanted.metadata is None else Jsonb(dict(wanted.metadata)),
            limit,
        ),
    )
    return [
        Listed(
            Checkpoint(
                row["namespace"],
                row["checkpoint_id"],
                row["parent_id"],
                Payload(row["kind"], row["payload"]),
                row["metadata"],
                row["channels"],
                row["created_at"],
            ),
            row["bytes"],
        )
        for row in await cursor.fetchall()
    ]


async def channels(
    connection: Connection, tenant_id: UUID, thread_id: UUID, of: Sequence[Checkpoint]
) -> list[ChannelValue]:
    """Return what the channels of checkpoints hold, each version once."""
    cursor = await connection.execute(
        queries("checkpoints")["select_channels"],
        (tenant_id, thread_id, [one.namespace for one in of], [one.id for one in of]),
    )
    return [
        ChannelValue(row["namespace"], row["channel"], row["version"], Payload(row["kind"], row["payload"]))
        for row in await cursor.fetchall()
    ]


async def writes(
    connection: Connection, tenant_id: UUID, thread_id: UUID, of: Sequence[Checkpoint]
) -> dict[tuple[str, str], list[Write]]:
    """Return the pending writes of checkpoints by namespace and id, in the order in which a step applies them."""
    cursor = await connection.execute(
        queries("checkpoints")["select_writes"],
        (tenant_id, thread_id, [one.namespace for one in of], [one.id for one in of]),
    )
    found: dict[tuple[str, str], list[Write]] = {}
    for row in await cursor.fetchall():
        write = Write(
            row["task_id"], row["task_path"], row["idx"], row["channel"], Payload(row["kind"], row["payload"])
        )
        found.setdefault((row["namespace"], row["checkpoint_id"]), []).append(write)
    return found


async def prune(connection: Connection, tenant_id: UUID, thread_id: UUID) -> int:
    """Delete all of a locked thread but what the newest checkpoint of each namespace needs. Returns how many went."""
    return await _deleted(connection, "prune_checkpoints", tenant_id, thread_id)


async def delete_runs(connection: Connection, principal: Principal, run_ids: Sequence[str], user_id: str | None) -> int:
    """Delete the checkpoints whose metadata name these runs, in threads of the caller. Returns how many went."""
    cursor = await connection.execute(
        queries("checkpoints")["lock_threads_of_runs"],
        (principal.tenant_id, principal.agent_id, list(run_ids), user_id),
    )
    threads = [row["id"] for row in await cursor.fetchall()]
    return sum(
        [
            await _deleted(connection, "delete_runs", principal.tenant_id, thread_id, list(run_ids))
            for thread_id in threads
        ]
    )


async def copy(connection: Connection, tenant_id: UUID, source: UUID, target: UUID) -> None:
    """Copy a thread's checkpoints, with all that belongs to them, to another; what is there already stays."""
    for statement in ("copy_channels", "copy_writes", "copy_checkpoints"):
        await connection.execute(queries("checkpoints")[statement], (tenant_id, source, target))


async def _deleted(connection: Connection, statement: str, tenant_id: UUID, thread_id: UUID, *more: Any) -> int:
    cursor = await connection.execute(queries("checkpoints")[statement], (tenant_id, thread_id, *more))
    row = await cursor.fetchone()
    await connection.execute(queries("checkpoints")["delete_unused_channels"], (tenant_id, thread_id))
    return 0 if row is None else int(row["deleted"])
