"""Metadata: what clients write on things for themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from trunkline.errors import InvalidRequest

MAX_PAIRS: Final = 16


def merged(before: Mapping[str, str], patch: Mapping[str, str | None] | None) -> dict[str, str]:
    """Return metadata after a patch, in which null removes a key. Raises InvalidRequest for more than `MAX_PAIRS`."""
    after = {key: value for key, value in {**before, **(patch or {})}.items() if value is not None}
    if len(after) > MAX_PAIRS:
        raise InvalidRequest(
            f"metadata would have {len(after)} pairs; at most {MAX_PAIRS} are allowed. Remove some (null).",
            param="metadata",
        )
    return after
