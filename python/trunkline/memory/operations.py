"""Block operations: `set`, `append`, `remove`, `merge` and `increment`, as pure functions from a value to the next.

- `set` puts a value at a field or path; objects on the way are made.
- `append` adds one item to an array; to an array with `uniqueItems` that has it already, it adds nothing.
- `remove` without a value forgets the field or path; with a value, it takes that item out of an array (or forgets the
  field if it holds just that). Removing what is not there succeeds.
- `merge` is a JSON Merge Patch (RFC 7396) of an object: keys are added or replaced, null forgets a key. Without a
  field, it patches the whole block.
- `increment` adds a number (a negative one subtracts) to the number at a field or path; what is unknown counts as 0.

A path is written `preferences.colour`, or as a list (`["preferences", "a.b"]`) for keys with dots; a number steps into
an array. Each operation may carry preconditions, which speak of the block before the call; one without any never fails
for what others wrote, but by the schema. What all operations of a call leave behind is validated, so they may pass
through states that do not fit.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Literal, get_args

from trunkline.domain.memory import sha256
from trunkline.domain.redaction import Redactor
from trunkline.domain.times import from_wire, to_wire
from trunkline.errors import InvalidRequest
from trunkline.memory.blocks import BlockDefinition
from trunkline.memory.rules import OnConflict
from trunkline.memory.values import MAX_DEPTH, canonical, check_text, check_value, identity, shown

Op = Literal["set", "append", "remove", "merge", "increment"]
OPS: Final[tuple[str, ...]] = get_args(Op)
MAX_OPERATIONS: Final = 100

_KEYS: Final = (
    "op",
    "block",
    "field",
    "value",
    "expect_sha256",
    "expect_version",
    "expect",
    "expect_absent",
    "expect_value_sha256",
    "valid_from",
    "valid_to",
    "on_conflict",
)


class _Absent:
    """The type of `ABSENT`: no value given, which differs from null."""


ABSENT: Final = _Absent()


@dataclass(frozen=True, slots=True)
class Operation:
    """One change of one field. The preconditions speak of the block as it was before the call's first operation.

    Of the block: `expect_version` 0 and `expect_sha256` "" expect that nobody has written it yet. Of what is at the
    path: `expect` is its value, `expect_value_sha256` the hash of its canonical text, `expect_absent` that it is not
    (or is) there. `valid_from` and `valid_to` say when the value holds; `on_conflict`, what becomes of a `set` that
    contradicts the value there (None: what the field's declaration says).
    """

    op: Op
    block: str
    path: tuple[str, ...]
    value: Any = ABSENT
    expect_sha256: str | None = None
    expect_version: int | None = None
    expect: Any = ABSENT
    expect_absent: bool | None = None
    expect_value_sha256: str | None = None
    valid_from: datetime | None = None
    valid_to: datetime | None = None
    on_conflict: OnConflict | None = None

    @property
    def has_precondition(self) -> bool:
        """Tell whether the writer said what it expects."""
        expected = (self.expect_sha256, self.expect_version, self.expect_absent, self.expect_value_sha256)
        return self.expect is not ABSENT or any(given is not None for given in expected)

    def redacted(self, redactor: Redactor) -> Operation:
        """Return the operation with what it brings, and below its field where to, as it may be stored."""
        return replace(
            self,
            path=(*self.path[:1], *(redactor.text(step) for step in self.path[1:])),
            value=self.value if self.value is ABSENT else redactor.value(self.value),
            expect=self.expect if self.expect is ABSENT else redactor.value(self.expect),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the operation as a version records it."""
        record: dict[str, Any] = {"op": self.op, "field": _written(self.path)}
        if self.value is not ABSENT:
            record["value"] = self.value
        if self.valid_from is not None:
            record["valid_from"] = to_wire(self.valid_from)
        if self.valid_to is not None:
            record["valid_to"] = to_wire(self.valid_to)
        if self.on_conflict is not None:
            record["on_conflict"] = self.on_conflict
        return record


def _written(path: tuple[str, ...]) -> str | list[str]:
    return list(path) if any("." in step for step in path) else ".".join(path)


def parse_operations(given: Any, block: str | None = None, where: str = "operations") -> list[Operation]:
    """Read operations from JSON; `block` is the block they are for when they do not name one.

    Raises InvalidRequest, naming the operation by its place, for unknown keys, wrong types and values that cannot be
    kept (see `values.check_value`).
    """
    if not isinstance(given, list) or not given:
        raise _refused(
            where, 'must be a list with at least one operation, such as {"op": "set", "field": …, "value": …}'
        )
    if len(given) > MAX_OPERATIONS:
        raise _refused(where, f"has {len(given)} operations; at most {MAX_OPERATIONS} go in one call")
    return [_parse(item, block, f"{where}[{number}]") for number, item in enumerate(given)]


def _parse(item: Any, block: str | None, where: str) -> Operation:
    if not isinstance(item, dict):
        raise _refused(where, f"must be an object with op, field and value, got {shown(item)}")
    for key in item:
        if key not in _KEYS:
            raise _refused(where, f"unknown key {shown(key)}; allowed: {', '.join(_KEYS)}")
    op = item.get("op")
    if op not in OPS:
        raise _refused(f"{where}.op", f"must be {', '.join(OPS[:-1])} or {OPS[-1]}, got {shown(op)}")
    name = item.get("block", block)
    if not isinstance(name, str) or (block is not None and name != block):
        raise _refused(
            f"{where}.block", f"must be {shown(block) if block else 'the name of a block'}, got {shown(name)}"
        )
    path = _path(item.get("field"), op, where)
    value = item.get("value", ABSENT)
    _check_operand(op, value, where)
    version, absent, conflict = item.get("expect_version"), item.get("expect_absent"), item.get("on_conflict")
    if version is not None and (not isinstance(version, int) or isinstance(version, bool)):
        raise _refused(f"{where}.expect_version", f"must be the block's version, a whole number, got {shown(version)}")
    if absent is not None and not isinstance(absent, bool):
        raise _refused(f"{where}.expect_absent", f"must be true or false, got {shown(absent)}")
    if conflict not in (None, "supersede", "record"):
        raise _refused(f"{where}.on_conflict", f"must be supersede or record, got {shown(conflict)}")
    expect = item.get("expect", ABSENT)
    if expect is not ABSENT:
        check_value(expect, f"{where}.expect")
    return Operation(
        next(known for known in get_args(Op) if known == op),
        name,
        path,
        value,
        _hash(item, "expect_sha256", where),
        version,
        expect,
        absent,
        _hash(item, "expect_value_sha256", where),
        _moment(item, "valid_from", where),
        _moment(item, "valid_to", where),
        "record" if conflict == "record" else "supersede" if conflict == "supersede" else None,
    )


def _check_operand(op: Any, value: Any, where: str) -> None:
    if value is ABSENT and op != "remove":
        raise _refused(where, f"{op} needs a value" + ("; to forget the field, use remove" if op == "set" else ""))
    if value is not ABSENT:
        check_value(value, f"{where}.value")
    if op == "merge" and not isinstance(value, dict):
        raise _refused(f"{where}.value", f"merge takes an object of the keys to change, got {shown(value)}")
    if op == "increment" and (not isinstance(value, int | float) or isinstance(value, bool)):
        raise _refused(f"{where}.value", f"increment takes a number to add, got {shown(value)}")


def _hash(item: Mapping[str, Any], key: str, where: str) -> str | None:
    given = item.get(key)
    if given is not None and not isinstance(given, str):
        raise _refused(f"{where}.{key}", f"must be a SHA-256 in hex, as it was read, got {shown(given)}")
    return given


def _moment(item: Mapping[str, Any], key: str, where: str) -> datetime | None:
    given = item.get(key)
    if given is None:
        return None
    try:
        moment = from_wire(given)
    except (ValueError, TypeError, OverflowError):
        raise _refused(f"{where}.{key}", f"must be a time such as 2026-11-20T09:00:00Z, got {shown(given)}") from None
    return moment


def _path(field: Any, op: Any, where: str) -> tuple[str, ...]:
    if field is None and op == "merge":
        return ()
    steps = field.split(".") if isinstance(field, str) else field
    if not isinstance(steps, list) or not steps or not all(isinstance(step, str) and step for step in steps):
        raise _refused(f"{where}.field", f"must be a field or a path such as preferences.colour, got {shown(field)}")
    if len(steps) > MAX_DEPTH:
        raise _refused(f"{where}.field", f"a path has at most {MAX_DEPTH} steps, this has {len(steps)}")
    for step in steps:
        check_text(step, f"{where}.field")
    return tuple(steps)


def apply(block: BlockDefinition, value: Mapping[str, Any], operations: Sequence[Operation]) -> dict[str, Any]:
    """Return the block's value after the operations; the value given is left as it was.

    Raises InvalidRequest when an operation cannot be applied or the result breaks the schema. An equal result means
    that nothing is to be written.
    """
    result: dict[str, Any] = copy.deepcopy(dict(value))
    for operation in operations:
        _apply(block, result, operation)
    if faults := block.problems(result):
        raise InvalidRequest("; ".join(faults) + ".", param=faults[0].partition(":")[0], code="schema_violation")
    check_value(result, block.name)
    return result


def failed_precondition(
    value: Mapping[str, Any], version: int, digest: str, operations: Sequence[Operation]
) -> str | None:
    """Return which precondition does not hold of a block at this version, in words; None when all do.

    The operations are `resolved`.
    """
    for operation in operations:
        if operation.expect_version not in (None, version):
            return f"the block is at version {version}, not {operation.expect_version}"
        if operation.expect_sha256 not in (None, digest):
            return f"the block changed: its content_sha256 is {digest or 'empty, nobody has written it'}"
        if operation.expect is ABSENT and operation.expect_absent is None and operation.expect_value_sha256 is None:
            continue
        there = value_at(value, operation.path)
        place = ".".join(operation.path) or "the block"
        if operation.expect_absent is not None and (there is ABSENT) != operation.expect_absent:
            return f"{place} is not there" if there is ABSENT else f"{place} is there: {shown(there)}"
        if operation.expect is not ABSENT and (there is ABSENT or identity(there) != identity(operation.expect)):
            return f"{place} is {'not there' if there is ABSENT else shown(there)}, not {shown(operation.expect)}"
        if operation.expect_value_sha256 is not None:
            found = "" if there is ABSENT else sha256(canonical(there))
            if found != operation.expect_value_sha256:
                return f"{place} changed: the hash of its value is {found or 'empty, it is not there'}"
    return None


def resolved(block: BlockDefinition, operations: Sequence[Operation]) -> list[Operation]:
    """Return the operations with paths that begin with a field of the block. Raises InvalidRequest for others."""
    return [replace(operation, path=_declared(block, operation)) for operation in operations]


def fields_of(operation: Operation) -> tuple[str, ...]:
    """Return the fields that a resolved operation speaks of."""
    return operation.path[:1] or tuple(operation.value)


def value_at(value: Any, path: tuple[str, ...]) -> Any:
    """Return what is at a path, or ABSENT."""
    for step in path:
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isascii() and step.isdigit() and int(step[:9]) < len(value):
            value = value[int(step[:9])]
        else:
            return ABSENT
    return value


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Tell whether two values are the same text once stored."""
    return canonical(one) == canonical(other)


def _apply(block: BlockDefinition, root: dict[str, Any], operation: Operation) -> None:
    path = _declared(block, operation)
    if not path:
        for name, patch in operation.value.items():
            _patch(root, name, patch)
        return
    place = ".".join([block.name, *path])
    parent = _parent(root, path, place, make=operation.op in ("set", "append", "merge", "increment"))
    if parent is None:
        return
    key = _key(parent, path[-1], place, must_exist=operation.op != "remove")
    if key is None:
        return
    present = key in parent if isinstance(parent, dict) else True
    match operation.op:
        case "set":
            parent[key] = copy.deepcopy(operation.value)
        case "remove":
            if present:
                _remove(parent, key, operation.value)
        case "append":
            items = parent[key] if present else []
            parent[key] = _appended(items, operation.value, place, unique=_unique(block, path))
        case "merge":
            parent[key] = _merged(parent[key] if present else {}, operation.value, place)
        case "increment":
            parent[key] = _incremented(parent[key] if present else 0, operation.value, place)


def _appended(items: Any, value: Any, place: str, *, unique: bool) -> list[Any]:
    if not isinstance(items, list):
        raise _refused(place, f"append needs an array, and it holds {shown(items)}; use set")
    if unique and any(identity(item) == identity(value) for item in items):
        return items
    return [*items, copy.deepcopy(value)]


def _incremented(there: Any, by: float, place: str) -> Any:
    if not isinstance(there, int | float) or isinstance(there, bool):
        raise _refused(place, f"increment needs a number, and it holds {shown(there)}; use set")
    total = there + by
    if isinstance(total, float) and not math.isfinite(total):
        raise _refused(place, f"{shown(there)} and {shown(by)} make no number that can be kept")
    return total


def _merged(target: Any, patch: dict[str, Any], place: str) -> dict[str, Any]:
    if not isinstance(target, dict):
        raise _refused(place, f"merge needs an object, and it holds {shown(target)}; use set")
    for name, item in patch.items():
        _patch(target, name, item)
    return target


def _declared(block: BlockDefinition, operation: Operation) -> tuple[str, ...]:
    """Check the path's first step, and drop the block's own name in front (`customer.name` in block `customer`)."""
    path = operation.path
    if len(path) > 1 and path[0] == block.name and path[0] not in block.fields:
        path = path[1:]
    for name in path[:1] or operation.value:
        if name not in block.fields:
            raise _refused(block.name, f"has no field {shown(name)}; its fields: {', '.join(sorted(block.fields))}")
    return path


def _parent(root: dict[str, Any], path: tuple[str, ...], place: str, *, make: bool) -> Any:
    """Walk to what holds the path's last step; None when it is not there and may not be made."""
    parent: Any = root
    for step in path[:-1]:
        key = _key(parent, step, place, must_exist=make)
        if key is None:
            return None
        if isinstance(parent, dict) and key not in parent:
            if not make:
                return None
            parent[key] = {}
        parent = parent[key]
        if not isinstance(parent, dict | list):
            if not make:
                return None
            raise _refused(place, f"cannot step into {step}, which holds {shown(parent)}; set {step} as a whole")
    return parent


def _key(parent: Any, step: str, place: str, *, must_exist: bool) -> Any:
    """Return the dictionary key or array index that a step means; None for an index that is not there."""
    if isinstance(parent, dict):
        return step
    if step.isascii() and step.isdigit() and len(step) < 10 and int(step) < len(parent):
        return int(step)
    if not must_exist:
        return None
    raise _refused(place, f"{shown(step)} is no index of this array of {len(parent)}; use append to add an item")


def _remove(parent: Any, key: Any, value: Any) -> None:
    target = parent[key]
    if value is ABSENT or (not isinstance(target, list) and identity(target) == identity(value)):
        del parent[key]
    elif isinstance(target, list):
        parent[key] = [item for item in target if identity(item) != identity(value)]


def _patch(target: dict[str, Any], name: str, patch: Any) -> None:
    """Apply RFC 7396 to one key, in place."""
    if patch is None:
        target.pop(name, None)
    elif isinstance(patch, dict):
        inner = target.get(name)
        target[name] = inner if isinstance(inner, dict) else {}
        for key, item in patch.items():
            _patch(target[name], key, item)
    else:
        target[name] = copy.deepcopy(patch)


def _unique(block: BlockDefinition, path: tuple[str, ...]) -> bool:
    """Tell whether the schema at a path says `uniqueItems`."""
    schema: Any = block.fields[path[0]]
    for step in path[1:]:
        if not isinstance(schema, dict):
            return False
        nested = schema.get("properties", {}).get(step)
        schema = nested if nested is not None else schema.get("items" if step.isdigit() else "additionalProperties")
    return isinstance(schema, dict) and schema.get("uniqueItems") is True


def _refused(where: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"{where}: {why}.", param=where)
