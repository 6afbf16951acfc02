"""What an agent or a store asks to have redacted, read from its definition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from trunkline._core import detectors
from trunkline.domain.redaction import Wanted, redactor
from trunkline.errors import InvalidRequest
from trunkline.memory.values import shown

MAX_PATTERNS: Final = 50


@dataclass(frozen=True, slots=True)
class Redaction:
    """What is looked for. With `log`, in sessions' logs too, and not only in what is kept as memory."""

    detect: tuple[Wanted, ...] = ()
    log: bool = True


def parse_redaction(given: Any, where: str) -> Redaction:
    """Read a list of detectors, or `{detect: [...], log: false}`. Raises InvalidRequest with the place."""
    if not isinstance(given, dict):
        return Redaction(parse_detectors(given, where))
    if not given.keys() <= {"detect", "log"} or "detect" not in given:
        raise _invalid(where, f"must be a list of detectors, or {{detect: [...], log: true}}, got {shown(given)}")
    log = given.get("log", True)
    if not isinstance(log, bool):
        raise _invalid(f"{where}.log", f"must be true or false, got {shown(log)}")
    return Redaction(parse_detectors(given["detect"], f"{where}.detect"), log)


def parse_detectors(given: Any, where: str) -> tuple[Wanted, ...]:
    """Read a list of detectors' names and of `{name, pattern}`. Raises InvalidRequest."""
    if not isinstance(given, list):
        names = ", ".join(detectors())
        raise _invalid(where, f"must be a list of {names} and {{name, pattern}}, got {shown(given)}")
    if len(given) > MAX_PATTERNS:
        raise _invalid(where, f"has {len(given)} entries; at most {MAX_PATTERNS} are allowed")
    for number, one in enumerate(given):
        if not isinstance(one, str) and not (
            isinstance(one, dict)
            and one.keys() == {"name", "pattern"}
            and all(isinstance(part, str) for part in one.values())
        ):
            raise _invalid(f"{where}[{number}]", f"must be a detector's name or {{name, pattern}}, got {shown(one)}")
    try:
        redactor(given)
    except ValueError as error:
        raise _invalid(where, str(error)) from error
    return tuple(given)


def _invalid(where: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"{where}: {why}.", param=where)
