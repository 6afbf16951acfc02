"""Bounds of what a tool may say: the beginning and the end are kept, and a marker tells what was cut between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from trunkline.runtime.tools.tool import Result

MAX_CHARACTERS: Final = 64 * 1024
"""Of the texts of one result: about 16,000 tokens."""
MAX_DATA_CHARACTERS: Final = 8 * 1024 * 1024
"""Of one image or document, in base64; providers take 5 MB."""
MAX_BLOCKS: Final = 100


class Output:
    """The bytes that a process writes: the first and the last of them, and how many there were."""

    def __init__(self, limit: int = MAX_CHARACTERS) -> None:
        self._half = limit // 2
        self._head = bytearray()
        self._tail = bytearray()
        self._size = 0

    def add(self, piece: bytes) -> None:
        """Take in what comes next."""
        self._size += len(piece)
        room = self._half - len(self._head)
        self._head += piece[:room]
        self._tail += piece[room:] if room > 0 else piece
        if len(self._tail) > 2 * self._half:
            del self._tail[: -self._half]

    def text(self) -> str:
        """Return what was kept, with a marker where something was cut."""
        cut = self._size - len(self._head) - min(len(self._tail), self._half)
        head, tail = bytes(self._head), bytes(self._tail[-self._half :])
        if not cut:
            return (head + tail).decode(errors="replace")
        return f"{head.decode(errors='replace')}{_marker(cut, 'bytes')}{tail.decode(errors='replace')}"


def bounded(result: Result) -> Result:
    """Return a result within the bounds."""
    room = MAX_CHARACTERS
    kept: list[Mapping[str, Any]] = []
    for block in result.content[:MAX_BLOCKS]:
        if block["type"] == "text":
            words = cut(block["text"], room)
            room = max(0, room - len(words))
            kept += [{**block, "text": words}] if words else []
        elif _data_size(block) > MAX_DATA_CHARACTERS:
            kept.append({"type": "text", "text": f"[an {block['type']} was left out: it is too large]"})
        else:
            kept.append(block)
    if len(result.content) > MAX_BLOCKS:
        kept.append({"type": "text", "text": _marker(len(result.content) - MAX_BLOCKS, "blocks").strip()})
    return Result(tuple(kept), result.is_error)


def cut(words: str, limit: int) -> str:
    """Return a text of at most about `limit` characters: longer ones without their middle."""
    if len(words) <= limit:
        return words
    half = limit // 2
    return f"{words[:half]}{_marker(len(words) - 2 * half, 'characters')}{words[-half:] if half else ''}"


def _marker(count: int, unit: str) -> str:
    return f"\n[… {count} {unit} were cut here …]\n"


def _data_size(block: Mapping[str, Any]) -> int:
    source = block.get("source")
    return len(source.get("data") or "") if isinstance(source, Mapping) else len(str(block))
