"""JSON values as memory keeps them: what may be stored, one text for each value, equality, and how a value is shown."""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final

from trunkline.errors import InvalidRequest

MAX_DEPTH: Final = 32
MAX_NODES: Final = 10_000
"""The most values (objects, arrays and scalars, counted at every level) that one block may hold."""

_MAX_INTEGER: Final = 2**63 - 1
_SURROGATE = re.compile("[\ud800-\udfff]")


def canonical(value: Any) -> str:
    """Return the one text of a JSON value: keys sorted, no spaces, characters as they are."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def identity(value: Any) -> str:
    """Return a text that two values share exactly when JSON Schema calls them equal: 1 and 1.0 are, 1 and true not."""
    return canonical(_integral(value))


def _integral(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _integral(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_integral(item) for item in value]
    return value


def shown(value: Any, length: int = 80) -> str:
    """Return a value as JSON for a message, cut to `length` characters, whatever its size."""
    if isinstance(value, str):
        text = json.dumps(value[: length + 1], ensure_ascii=False)
    elif isinstance(value, list | dict) and len(value) > length:
        return f"{'an array' if isinstance(value, list) else 'an object'} of {len(value)} entries"
    else:
        text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= length else text[:length] + "…"


def check_text(text: str, where: str) -> None:
    """Raise InvalidRequest for text that Postgres cannot store: NUL, or half of a surrogate pair."""
    if "\0" in text:
        raise InvalidRequest(f"{where}: contains NUL (U+0000), which cannot be stored; remove it.", param=where)
    if _SURROGATE.search(text):
        raise InvalidRequest(
            f"{where}: contains half of a surrogate pair (U+D800 to U+DFFF), not a character; send valid Unicode.",
            param=where,
        )


def check_value(value: Any, where: str) -> None:
    """Raise InvalidRequest, naming `where`, for a value that cannot be kept exactly.

    Refused: NUL and lone surrogates in strings and keys, NaN and infinities, integers beyond 64 bits, more than
    MAX_DEPTH levels, more than MAX_NODES values. Walks without recursion, so depth cannot exhaust the stack.
    """
    pending: list[tuple[Any, int]] = [(value, 1)]
    nodes = 0
    while pending:
        item, depth = pending.pop()
        nodes += 1
        if depth > MAX_DEPTH:
            raise InvalidRequest(f"{where}: nested more than {MAX_DEPTH} levels deep; flatten it.", param=where)
        if isinstance(item, dict):
            for key in item:
                if not isinstance(key, str):
                    raise InvalidRequest(f"{where}: the key {key!r} is not a string; quote it.", param=where)
                check_text(key, where)
            nested = list(item.values())
        elif isinstance(item, list):
            nested = item
        else:
            _check_scalar(item, where)
            continue
        if nodes + len(pending) + len(nested) > MAX_NODES:
            raise InvalidRequest(
                f"{where}: holds more than {MAX_NODES} values; keep what matters and drop the rest.", param=where
            )
        pending.extend((child, depth + 1) for child in nested)


def _check_scalar(item: Any, where: str) -> None:
    if isinstance(item, str):
        check_text(item, where)
    elif isinstance(item, float):
        if not math.isfinite(item):
            raise InvalidRequest(f"{where}: {item} is not a JSON number; give a finite number or null.", param=where)
    elif isinstance(item, int):
        if abs(item) > _MAX_INTEGER:
            raise InvalidRequest(
                f"{where}: the integer has more than 64 bits; give it as a string if its digits matter.", param=where
            )
    elif item is not None:
        raise InvalidRequest(f"{where}: a {type(item).__name__} is not a JSON value.", param=where)


def json_type(value: Any) -> str:
    """Return the JSON Schema name of a value's type."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"
