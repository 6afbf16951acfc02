"""Block operations: `set`, `append`, `remove` and `merge`, as pure functions from a value to the next.

- `set` puts a value at a field or path; objects on the way are made.
- `append` adds one item to an array; to an array with `uniqueItems` that has it already, it adds nothing.
- `remove` without a value forgets the field or path; with a value, it takes that item out of an array (or forgets the
  field if it holds just that). Removing what is not there succeeds.
- `merge` is a JSON Merge Patch (RFC 7396) of an object: keys are added or replaced, null forgets a key. Without a
  field, it patches the whole block.

A path is written `preferences.colour`, or as a list (`["preferences", "a.b"]`) for keys with dots; a number steps into
an array. What all operations of a call leave behind is validated, so they may pass through states that do not fit.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from trunkline.errors import InvalidRequest
from trunkline.memory.blocks import BlockDefinition
from trunkline.memory.values import MAX_DEPTH, canonical, check_text, check_value, identity, shown

Op = Literal["set", "append", "remove", "merge"]
OPS: Final[tuple[str, ...]] = get_args(Op)
MAX_OPERATIONS: Final = 100

_KEYS: Final = ("op", "block", "field", "value", "expect_sha256", "expect_version")


class _Absent:
    """The type of `ABSENT`: no value given, which differs from null."""


ABSENT: Final = _Absent()


@dataclass(frozen=True, slots=True)
class Operation:
    """One change of one field. The preconditions speak of the block as it was before the call's first operation.

    `expect_version` 0 and `expect_sha256` "" expect that nobody has written the block yet.
    """

    op: Op
    block: str
    path: tuple[str, ...]
    value: Any = ABSENT
    expect_sha256: str | None = None
    expect_version: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the operation as a version records it."""
        record: dict[str, Any] = {"op": self.op, "field": _written(self.path)}
        if self.value is not ABSENT:
            record["value"] = self.value
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
    if value is ABSENT and op != "remove":
        raise _refused(where, f"{op} needs a value" + ("; to forget the field, use remove" if op == "set" else ""))
    if value is not ABSENT:
        check_value(value, f"{where}.value")
    if op == "merge" and not isinstance(value, dict):
        raise _refused(f"{where}.value", f"merge takes an object of the keys to change, got {shown(value)}")
    sha256, version = item.get("expect_sha256"), item.get("expect_version")
    if sha256 is not None and not isinstance(sha256, str):
        raise _refused(f"{where}.expect_sha256", f"must be the block's content_sha256, got {shown(sha256)}")
    if version is not None and (not isinstance(version, int) or isinstance(version, bool)):
        raise _refused(f"{where}.expect_version", f"must be the block's version, a whole number, got {shown(version)}")
    return Operation(next(known for known in get_args(Op) if known == op), name, path, value, sha256, version)


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
    parent = _parent(root, path, place, make=operation.op in ("set", "append", "merge"))
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


def _appended(items: Any, value: Any, place: str, *, unique: bool) -> list[Any]:
    if not isinstance(items, list):
        raise _refused(place, f"append needs an array, and it holds {shown(items)}; use set")
    if unique and any(identity(item) == identity(value) for item in items):
        return items
    return [*items, copy.deepcopy(value)]


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
