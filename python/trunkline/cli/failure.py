"""How a command fails: one line on standard error, and an exit status that a script can tell apart."""

from __future__ import annotations

import json
import sys

from trunkline.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    TooLarge,
    TrunklineError,
    Unauthenticated,
    Unavailable,
)

USAGE = 2
INTERRUPTED = 130
_STATUS: dict[type[TrunklineError], int] = {
    InvalidRequest: USAGE,
    TooLarge: USAGE,
    NotFound: 3,
    Conflict: 4,
    Unauthenticated: 5,
    Forbidden: 5,
    Unavailable: 6,
}


def exit_status(error: TrunklineError) -> int:
    """Return the exit status for an error; 1 for what has none of its own."""
    return next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 1)


def tell(error: TrunklineError, *, as_json: bool) -> None:
    """Write the error to standard error, as one line of text or of JSON."""
    if as_json:
        sys.stderr.write(json.dumps(error.to_wire("")["error"], default=str) + "\n")
        return
    message = " ".join(error.message.split())
    current = (error.details or {}).get("current")
    if current is not None:
        message += f" Current state: {json.dumps(current, ensure_ascii=False, default=str)}"
    sys.stderr.write(f"trunkline: {message}\n")
