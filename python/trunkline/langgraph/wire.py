"""Checkpoints between LangGraph's form and the wire's."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    get_serializable_checkpoint_metadata,
)
from langgraph.checkpoint.serde.base import SerializerProtocol


def configurable(config: RunnableConfig) -> Mapping[str, Any]:
    """Return what a config says of the thread. Raises ValueError where it names none."""
    found: Mapping[str, Any] = config.get("configurable") or {}
    if found.get("thread_id") is None:
        raise ValueError("The config names no thread: pass {'configurable': {'thread_id': …}}.")
    return found


def config_of(thread: str, namespace: str, checkpoint_id: str) -> RunnableConfig:
    """Return the config that names a checkpoint."""
    return {"configurable": {"thread_id": thread, "checkpoint_ns": namespace, "checkpoint_id": checkpoint_id}}


def to_wire(
    serde: SerializerProtocol,
    config: RunnableConfig,
    checkpoint: Checkpoint,
    metadata: CheckpointMetadata,
    new_versions: ChannelVersions,
) -> dict[str, Any]:
    """Return a checkpoint as the wire takes it; what channels hold goes with it where it is new."""
    of = configurable(config)
    held = checkpoint["channel_values"]
    bare = {name: value for name, value in checkpoint.items() if name != "channel_values"}
    return {
        "id": checkpoint["id"],
        "namespace": of.get("checkpoint_ns") or "",
        "parent_id": of.get("checkpoint_id"),
        "payload": _dump(serde, bare),
        "metadata": dict(get_serializable_checkpoint_metadata(config, metadata)),
        "channels": {channel: str(version) for channel, version in checkpoint["channel_versions"].items()},
        "values": [
            {"channel": channel, "version": str(version), **_dump(serde, held[channel])}
            for channel, version in new_versions.items()
            if channel in held
        ],
    }


def writes_to_wire(
    serde: SerializerProtocol, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str
) -> dict[str, Any]:
    """Return what a task wrote as the wire takes it."""
    return {
        "namespace": configurable(config).get("checkpoint_ns") or "",
        "task_id": task_id,
        "task_path": task_path,
        "writes": [
            {"idx": WRITES_IDX_MAP.get(channel, number), "channel": channel, **_dump(serde, value)}
            for number, (channel, value) in enumerate(writes)
        ],
    }


def from_wire(serde: SerializerProtocol, thread: str, page: Mapping[str, Any]) -> list[CheckpointTuple]:
    """Return the checkpoints of a page of the list."""
    values = {(value["namespace"], value["channel"], value["version"]): value for value in page["values"]}
    return [_tuple(serde, thread, one, values) for one in page["data"]]


def _tuple(
    serde: SerializerProtocol, thread: str, one: Mapping[str, Any], values: Mapping[tuple[str, str, str], Any]
) -> CheckpointTuple:
    namespace = one["namespace"]
    held = {
        channel: _load(serde, values[namespace, channel, version])
        for channel, version in one["channels"].items()
        if (namespace, channel, version) in values
    }
    checkpoint = cast("Checkpoint", {**_load(serde, one["payload"]), "channel_values": held})
    return CheckpointTuple(
        config=config_of(thread, namespace, one["id"]),
        checkpoint=checkpoint,
        metadata=one["metadata"],
        parent_config=None if one["parent_id"] is None else config_of(thread, namespace, one["parent_id"]),
        pending_writes=[(write["task_id"], write["channel"], _load(serde, write)) for write in one["writes"]],
    )


def _dump(serde: SerializerProtocol, value: Any) -> dict[str, str]:
    kind, data = serde.dumps_typed(value)
    return {"kind": kind, "data": base64.b64encode(data).decode()}


def _load(serde: SerializerProtocol, given: Mapping[str, str]) -> Any:
    return serde.loads_typed((given["kind"], base64.b64decode(given["data"])))
