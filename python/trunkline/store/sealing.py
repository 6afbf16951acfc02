"""Secrets at rest: sealed with AES-256-GCM under a key that the database never sees.

A sealed value is a version byte, eight bytes that tell the key, a nonce of twelve, and the ciphertext. What it belongs
to is authenticated with it, so that one row's secret cannot be put into another.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from trunkline.errors import SetupError, Unavailable

KEY_BYTES: Final = 32
_VERSION: Final = b"\x01"
_MARK_BYTES: Final = 8
_NONCE_BYTES: Final = 12


class Sealing:
    """Seals with the first of its keys, and opens what any of them has sealed. Without a key it does neither."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = {_mark(key): AESGCM(key) for key in keys}
        self._first = _mark(keys[0]) if keys else None

    def seal(self, values: Mapping[str, str], *belongs_to: bytes) -> bytes:
        """Return texts by name, sealed. Raises Unavailable without a key."""
        if self._first is None:
            raise Unavailable(
                "This control plane has no key to keep secrets with; set TRUNKLINE_VAULT_KEY where it starts.",
                code="no_vault_key",
            )
        nonce = secrets.token_bytes(_NONCE_BYTES)
        text = json.dumps(dict(values), separators=(",", ":")).encode()
        head = _VERSION + self._first
        return head + nonce + self._keys[self._first].encrypt(nonce, text, head + b"\0".join(belongs_to))

    def open(self, sealed: bytes, *belongs_to: bytes) -> dict[str, str]:
        """Return what was sealed. Raises Unavailable where the key is not one of these, or the bytes were changed."""
        head, nonce = sealed[: 1 + _MARK_BYTES], sealed[1 + _MARK_BYTES : 1 + _MARK_BYTES + _NONCE_BYTES]
        key = self._keys.get(head[1:])
        if key is None or head[:1] != _VERSION:
            raise Unavailable(
                "This control plane lacks the key that the secret was sealed with; give it all keys in "
                "TRUNKLINE_VAULT_KEY, the newest first.",
                code="no_vault_key",
            )
        try:
            text = key.decrypt(nonce, sealed[1 + _MARK_BYTES + _NONCE_BYTES :], head + b"\0".join(belongs_to))
        except InvalidTag as error:
            raise Unavailable(
                "The sealed secret was changed in the database; set it anew.", code="damaged_secret"
            ) from error
        values: dict[str, str] = json.loads(text)
        return values


def read_keys(text: str) -> tuple[bytes, ...]:
    """Return the keys in a text: each 32 bytes in base64, separated by commas, the newest first. Raises SetupError."""
    keys = []
    for part in text.split(","):
        try:
            key = base64.urlsafe_b64decode(part.strip().replace("+", "-").replace("/", "_") + "===")
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != KEY_BYTES:
            raise SetupError(
                "TRUNKLINE_VAULT_KEY is not 32 bytes in base64 (or several, separated by commas); "
                "`openssl rand -base64 32` makes one."
            )
        keys.append(key)
    return tuple(keys)


def new_key() -> str:
    """Return a new key in the form that `read_keys` takes."""
    return base64.urlsafe_b64encode(secrets.token_bytes(KEY_BYTES)).decode()


def _mark(key: bytes) -> bytes:
    return hashlib.sha256(b"trunkline vault key" + key).digest()[:_MARK_BYTES]
