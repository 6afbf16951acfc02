"""What a block says of its fields beyond their types: how long a value holds, what a contradiction does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from trunkline.domain.retention import DAY, Retention
from trunkline.errors import InvalidRequest
from trunkline.memory.values import shown

OnConflict = Literal["supersede", "record"]
Access = Literal["read_only", "read_write"]

FIELD_KEYS: Final = ("stale_after", "on_conflict", "priority")
MAX_SECONDS: Final = 100 * 365 * 86_400
MAX_PRIORITY: Final = 1_000

_DURATION = re.compile(r"([0-9]{1,10})(s|m|h|d|w)", re.ASCII)
_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


@dataclass(frozen=True, slots=True)
class FieldRule:
    """How a field's value lives. `stale_after` is in seconds, None: for ever.

    With `on_conflict` "record", a value that contradicts the one there is kept beside it instead of superseding it.
    Where a block must be cut, fields of a higher `priority` are kept first.
    """

    stale_after: int | None = None
    on_conflict: OnConflict = "supersede"
    priority: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the rule as it stands in a field's declaration, defaults left out."""
        found = {"stale_after": self.stale_after, "on_conflict": self.on_conflict, "priority": self.priority}
        return {key: value for key, value in found.items() if value != getattr(_DEFAULT, key)}


_DEFAULT: Final = FieldRule()


def parse_rule(given: Mapping[str, Any], where: str) -> FieldRule:
    """Read the rule among a field's keys. Raises InvalidRequest with the place."""
    conflict = given.get("on_conflict", "supersede")
    if conflict not in ("supersede", "record"):
        raise _invalid(f"{where}.on_conflict", f"must be supersede or record, got {shown(conflict)}")
    return FieldRule(
        None if given.get("stale_after") is None else seconds(given["stale_after"], f"{where}.stale_after"),
        "record" if conflict == "record" else "supersede",
        parse_priority(given.get("priority", 0), f"{where}.priority"),
    )


def parse_priority(given: Any, where: str) -> int:
    """Read a priority. Raises InvalidRequest."""
    if not isinstance(given, int) or isinstance(given, bool) or abs(given) > MAX_PRIORITY:
        raise _invalid(where, f"must be a whole number from -{MAX_PRIORITY} to {MAX_PRIORITY}, got {shown(given)}")
    return given


def seconds(given: Any, where: str) -> int:
    """Read a length of time: `30d`, `12h`, `90s`, or seconds as a number. Raises InvalidRequest."""
    found: int | None = None
    if isinstance(given, int) and not isinstance(given, bool):
        found = given
    elif isinstance(given, str) and (parts := _DURATION.fullmatch(given)):
        found = int(parts[1]) * _UNITS[parts[2]]
    if found is None or not 0 < found <= MAX_SECONDS:
        raise _invalid(where, f"must be a time such as 30d, 12h, 15m or 90s, up to 100 years, got {shown(given)}")
    return found


def parse_retention(given: Any, where: str) -> Retention:
    """Read `{sessions: 90d, events: 30d}`, either of which may be missing or null. Raises InvalidRequest."""
    if not isinstance(given, dict) or not given.keys() <= {"sessions", "events"}:
        raise _invalid(where, f"must be a mapping of sessions and events to times such as 90d, got {shown(given)}")
    times = {key: seconds(value, f"{where}.{key}") for key, value in given.items() if value is not None}
    for key, time in times.items():
        if time < DAY:
            raise _invalid(
                f"{where}.{key}", f"must be at least 1d, since it is looked for once a day; got {given[key]!r}"
            )
    return Retention(**times)


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a schema's change: `rename` (`field` to `to`), `drop` (`field`) or `default` (`field`, `value`)."""

    kind: Literal["rename", "drop", "default"]
    field: str
    to: str = ""
    value: Any = None

    def to_json(self) -> dict[str, Any]:
        """Return the step as it stands under `migrate`."""
        match self.kind:
            case "rename":
                return {"rename": self.field, "to": self.to}
            case "drop":
                return {"drop": self.field}
            case "default":
                return {"default": self.field, "value": self.value}


def parse_steps(given: Any, fields: Mapping[str, Any], where: str) -> tuple[Step, ...]:
    """Read `migrate`. Raises InvalidRequest for a step that does not fit the fields."""
    if not isinstance(given, list) or len(given) > 100:
        raise _invalid(where, f"must be a list of up to 100 steps, got {shown(given)}")
    return tuple(_step(step, fields, f"{where}[{number}]") for number, step in enumerate(given))


def _step(given: Any, fields: Mapping[str, Any], where: str) -> Step:
    keys = set(given) if isinstance(given, dict) else set()
    step: Step | None = None
    if keys == {"rename", "to"}:
        step = Step("rename", given["rename"], given["to"])
    elif keys == {"drop"}:
        step = Step("drop", given["drop"])
    elif keys == {"default", "value"}:
        step = Step("default", given["default"], value=given["value"])
    if step is None or not isinstance(step.field, str) or not isinstance(step.to, str):
        raise _invalid(
            where,
            f"must be {{rename: OLD, to: NEW}}, {{drop: FIELD}} or {{default: FIELD, value: …}}, got {shown(given)}",
        )
    declared = step.to if step.kind == "rename" else step.field
    if step.kind != "drop" and declared not in fields:
        raise _invalid(where, f"there is no field {shown(declared)} in the definition")
    if step.kind != "default" and step.field in fields:
        raise _invalid(where, f"the field {shown(step.field)} is still declared; take it out of the fields")
    return step


def parse_sharing(given: Any, where: str) -> dict[str, Access]:
    """Read `shared_with`: a mapping from an agent's name to read_only or read_write. Raises InvalidRequest."""
    if not isinstance(given, dict) or len(given) > 100:
        raise _invalid(where, f"must map up to 100 names of agents to read_only or read_write, got {shown(given)}")
    found: dict[str, Access] = {}
    for name, access in given.items():
        if not isinstance(name, str) or not 1 <= len(name) <= 256:
            raise _invalid(where, f"{shown(name)} is not the name of an agent")
        found[name] = parse_access(access, f"{where}.{name}")
    return found


def parse_access(given: Any, where: str) -> Access:
    """Read an access. Raises InvalidRequest."""
    if given not in ("read_only", "read_write"):
        raise _invalid(where, f"must be read_only or read_write, got {shown(given)}")
    return "read_only" if given == "read_only" else "read_write"


def _invalid(where: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"{where}: {why}.", param=where)
