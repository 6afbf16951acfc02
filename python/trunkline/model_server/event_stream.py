"""Amazon's `application/vnd.amazon.eventstream`: binary messages with headers and checksums."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

MEDIA_TYPE = "application/vnd.amazon.eventstream"
_STRING = 7  # the type of a header's value


def message(headers: Mapping[str, str], payload: bytes) -> bytes:
    """Return one message: lengths, their CRC-32, headers, payload, CRC-32 of all before; numbers big-endian."""
    head = b"".join(_header(name, value) for name, value in headers.items())
    prelude = (16 + len(head) + len(payload)).to_bytes(4, "big") + len(head).to_bytes(4, "big")
    data = prelude + _checksum(prelude) + head + payload
    return data + _checksum(data)


def broken(data: bytes) -> bytes:
    """Return the message with a checksum that is not its own."""
    return data[:-1] + bytes([data[-1] ^ 0xFF])


def _header(name: str, value: str) -> bytes:
    shown, text = name.encode(), value.encode()
    return bytes([len(shown)]) + shown + bytes([_STRING]) + len(text).to_bytes(2, "big") + text


def _checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "big")
