"""Ids: UUIDv7 in the database, `prefix_` and 32 hexadecimal digits on the wire.

A UUIDv7 (RFC 9562, section 5.7) begins with the millisecond it was made in, so ids sort by time and rows made together
lie together in an index.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from typing import Final, Literal
from uuid import UUID

from trunkline.errors import NotFound

Prefix = Literal[
    "agent", "sesn", "sevt", "sthr", "sesrsc", "memstore", "mem", "memver", "key", "tnt", "call", "env", "team", "psg",
    "vlt", "vcrd", "file", "depl", "drun", "thread", "conv", "msg", "fc", "fco",
    "whk", "whd", "whevt", "mprop",
]  # fmt: skip

_NOUNS: Final[dict[str, str]] = {
    "agent": "an agent",
    "sesn": "a session",
    "sevt": "an event",
    "sthr": "a thread",
    "sesrsc": "a resource of a session",
    "memstore": "a memory store",
    "mem": "a memory",
    "memver": "a memory version",
    "key": "a key",
    "tnt": "a tenant",
    "call": "a model call",
    "env": "an environment",
    "team": "a team",
    "psg": "a passage",
    "vlt": "a vault",
    "vcrd": "a credential",
    "file": "a file",
    "depl": "a deployment",
    "drun": "a deployment run",
    "thread": "a thread of a framework",
    "conv": "a conversation",
    "msg": "a message of a conversation",
    "fc": "a function call of a conversation",
    "fco": "a function call's output",
    "whk": "a webhook",
    "whd": "a delivery of a webhook",
    "whevt": "an event of a webhook",
    "mprop": "a proposal for memory",
}
_HEX = re.compile(r"[0-9a-f]{32}", re.ASCII)


def new() -> UUID:
    """Return a new UUIDv7: 48 bits of Unix milliseconds, 12 bits of the fraction of that millisecond, 62 random bits.

    The fraction (RFC 9562, section 6.2, method 3) keeps ids in the order they were made, to about 0.25 µs.
    """
    milliseconds, nanoseconds = divmod(time.time_ns(), 1_000_000)
    fraction = (nanoseconds << 12) // 1_000_000
    random = secrets.randbits(62)
    return UUID(int=milliseconds << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | random)


def derived(*of: bytes) -> UUID:
    """Return the id that stands for these bytes, the same each time: a UUIDv8 of their SHA-256."""
    digest = hashlib.sha256(b"".join(len(part).to_bytes(4, "big") + part for part in of)).digest()
    number = int.from_bytes(digest[:16], "big")
    return UUID(int=number & ~(0xF << 76) & ~(0b11 << 62) | 0x8 << 76 | 0b10 << 62)


def encode(prefix: Prefix, uuid: UUID) -> str:
    """Return the wire form, for example `sesn_0193f0a4c1b27c55a1c8b4c0a1b2c3d4`."""
    return f"{prefix}_{uuid.hex}"


def decode(prefix: Prefix, text: str) -> UUID:
    """Return the UUID in a wire id.

    Raises NotFound when the text is not an id of this kind: nothing can be stored under it.
    """
    kind, underscore, digits = text.partition("_")
    if kind != prefix or not underscore or not _HEX.fullmatch(digits):
        shown = text if len(text) <= 80 else f"{text[:80]}…"
        raise NotFound(
            f"{shown!r} is not the id of {_NOUNS[prefix]}: expected '{prefix}_' and 32 lowercase hexadecimal digits.",
            code="malformed_id",
        )
    return UUID(hex=digits)


def decode_or_name(prefix: Prefix, text: str) -> tuple[UUID | None, str | None]:
    """Return the id in a text that may be a wire id or a name, or else the name."""
    try:
        return decode(prefix, text), None
    except NotFound:
        return None, text
