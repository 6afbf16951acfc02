"""The SQL of the store, read from the `.sql` files beside this module."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

_NAME = re.compile(r"^-- name: (\w+)[ \t]*$", re.MULTILINE)


def parse(text: str, source: str) -> Mapping[str, str]:
    """Split a `.sql` file into its statements by name.

    A statement begins with `-- name: NAME`, then at least one comment line that says what it does, then one statement.
    Raises ValueError, with `source` and the name, for anything else.
    """
    head, *pieces = _NAME.split(text)
    if any(line.strip() and not line.startswith("--") for line in head.splitlines()):
        raise ValueError(f"{source}: SQL before the first '-- name:' line")
    statements: dict[str, str] = {}
    for name, body in zip(pieces[::2], pieces[1::2], strict=True):
        if name in statements:
            raise ValueError(f"{source}: two statements are named {name}")
        lines = body.strip().splitlines()
        if not lines or not lines[0].startswith("-- "):
            raise ValueError(f"{source}: {name} has no line that says what it does")
        statement = "\n".join(line for line in lines if not line.lstrip().startswith("--")).strip().removesuffix(";")
        if not statement:
            raise ValueError(f"{source}: {name} has no statement")
        statements[name] = statement
    return MappingProxyType(statements)


@cache
def queries(noun: str) -> Mapping[str, str]:
    """Return the statements of `store/<noun>.sql` by name; the file is read once a process."""
    path = Path(__file__).with_name(f"{noun}.sql")
    return parse(path.read_text(encoding="utf-8"), path.name)
