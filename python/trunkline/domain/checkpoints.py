"""Checkpoints: the state of a graph after each step. What is in a payload only the graph's own serializer knows."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from trunkline.domain.times import to_wire

MAX_PAYLOAD: Final = 8 * 1024 * 1024
"""Bytes of one payload."""
MAX_STATE: Final = 32 * 1024 * 1024
"""Bytes of a checkpoint with what its channels hold and its pending writes."""


@dataclass(frozen=True, slots=True)
class Payload:
    """Bytes, and the name of the form that they are in."""

    kind: str
    data: bytes

    def to_wire(self) -> dict[str, str]:
        """Return the bytes as base64, beside their kind."""
        return {"kind": self.kind, "data": base64.b64encode(self.data).decode()}


@dataclass(frozen=True, slots=True)
class ChannelValue:
    """What a channel held at a version."""

    namespace: str
    channel: str
    version: str
    payload: Payload

    def to_wire(self) -> dict[str, Any]:
        """Return the value as the wire tells it."""
        return {
            "namespace": self.namespace,
            "channel": self.channel,
            "version": self.version,
            **self.payload.to_wire(),
        }


@dataclass(frozen=True, slots=True)
class Write:
    """What a task wrote to a channel. `idx` is its place among the task's writes; below 0, later ones replace it."""

    task_id: str
    task_path: str
    idx: int
    channel: str
    payload: Payload

    def to_wire(self) -> dict[str, Any]:
        """Return the write as the wire tells it."""
        return {
            "task_id": self.task_id,
            "task_path": self.task_path,
            "idx": self.idx,
            "channel": self.channel,
            **self.payload.to_wire(),
        }


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint without what its channels hold. `channels` tells the version of each."""

    namespace: str
    id: str
    parent_id: str | None
    payload: Payload
    metadata: Mapping[str, Any]
    channels: Mapping[str, str]
    created_at: datetime

    def to_wire(self, writes: Sequence[Write]) -> dict[str, Any]:
        """Return the checkpoint with its pending writes, in the order in which a step applies them."""
        return {
            "type": "checkpoint",
            "namespace": self.namespace,
            "id": self.id,
            "parent_id": self.parent_id,
            "payload": self.payload.to_wire(),
            "metadata": dict(self.metadata),
            "channels": dict(self.channels),
            "writes": [write.to_wire() for write in writes],
            "created_at": to_wire(self.created_at),
        }
