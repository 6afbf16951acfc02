from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from trunkline.client.wire import Wire

PART: Final = 8 * 1024 * 1024
"""Bytes of a file in one request, well below the limit of a body."""


class Imported(Wire):
    """What became of a file: how many `versions`, `memories` and `passages` it has, and how many of them are new."""

    memory_store_id: str
    given: dict[str, int]
    added: dict[str, int]


class ImportedAgentFile(Wire):
    """What became of an agent file: its blocks, those that the agent was given the declaration of, and its passages."""

    blocks: tuple[str, ...]
    declared: tuple[str, ...]
    were_read_only: tuple[str, ...]
    """Blocks that the agent could not write where it was; here it can."""
    turns: int
    documents: int
    silent_messages: int
    """Of the system, of tools, and thoughts: left out."""
    passages: int
    added: int


def added_up(some: Sequence[Imported]) -> Imported:
    """Return what became of a file that went in several requests, one at least."""

    def sums(counts: list[dict[str, int]]) -> dict[str, int]:
        return {kind: sum(count[kind] for count in counts) for kind in counts[0]}

    return Imported(
        memory_store_id=some[0].memory_store_id,
        given=sums([one.given for one in some]),
        added=sums([one.added for one in some]),
    )


def parts(lines: Iterable[str]) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yield a file as bodies of requests, each with its query; a small file is one body."""
    header = b""
    some: list[bytes] = []
    size = before = count = 0
    for line in lines:
        encoded = line.encode() if line.endswith("\n") else line.encode() + b"\n"
        if not header:
            header = encoded
            continue
        if some and size + len(encoded) > PART:
            yield header + b"".join(some), {"part": "true", "offset": before}
            some, size, before = [], 0, count
        some.append(encoded)
        size += len(encoded)
        count += 1
    yield header + b"".join(some), {"part": "true", "offset": before} if before else {}
