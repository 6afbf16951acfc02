"""Paths of memories: the rules of the Managed Agents wire."""

from __future__ import annotations

import unicodedata
from typing import Final

from trunkline.domain.memory import BLOCKS_PREFIX
from trunkline.errors import InvalidRequest
from trunkline.memory.values import shown

MAX_BYTES: Final = 1024
MAX_SEGMENTS: Final = 20

# Control and format characters, surrogates, and the line and paragraph separators U+2028 and U+2029.
_FORBIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def check_path(path: str, where: str = "path") -> str:
    """Return the path of a memory. Raises InvalidRequest that says which rule it breaks."""
    _check_text(path, where)
    segments = path.split("/")[1:]
    if not path.startswith("/"):
        raise _refused(path, where, "must begin with /")
    if not 1 <= len(segments) <= MAX_SEGMENTS:
        raise _refused(path, where, f"must have 1 to {MAX_SEGMENTS} segments, has {len(segments)}")
    if "" in segments:
        raise _refused(path, where, "has an empty segment: no // and no / at the end")
    if "." in segments or ".." in segments:
        raise _refused(path, where, "has a segment . or ..; write the path in full")
    return path


def check_prefix(prefix: str, where: str = "path_prefix") -> str:
    """Return a prefix, which matches whole segments and so ends in a slash. Raises InvalidRequest."""
    _check_text(prefix, where)
    if not prefix.startswith("/") or not prefix.endswith("/"):
        raise _refused(prefix, where, "must begin and end with /")
    if prefix != "/":
        check_path(prefix[:-1], where)
    return prefix


def block_name(path: str) -> str | None:
    """Return the name of the block that a managed store keeps at this path; None for any other path."""
    name = path.removeprefix(BLOCKS_PREFIX)
    return name if path != name and "/" not in name else None


def reserved(path: str) -> bool:
    """Tell whether a managed store keeps this path for blocks."""
    return path == BLOCKS_PREFIX.rstrip("/") or path.startswith(BLOCKS_PREFIX)


def _check_text(path: str, where: str) -> None:
    for character in path[: MAX_BYTES + 1]:
        if unicodedata.category(character) in _FORBIDDEN:
            raise _refused(path, where, f"has the character U+{ord(character):04X}, which a path cannot hold")
    if len(path) > MAX_BYTES or len(path.encode()) > MAX_BYTES:
        raise _refused(path, where, f"is longer than {MAX_BYTES} bytes")
    if not unicodedata.is_normalized("NFC", path):
        raise _refused(path, where, "is not in Unicode Normalization Form C; normalise it first")


def _refused(path: str, where: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"The path {shown(path)} {why}.", param=where, code="invalid_path")
