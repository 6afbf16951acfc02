"""What is known of each field of a block: where its value came from, since when it holds, and how far to trust it.

A state is kept as JSON beside the value, one an object for each known field:
`{"state": "asserted" | "conflicted", "version_id": "memver_…", "at": …, "actor": {"type", "id"}, "valid_from": …}`
with, where they apply, `session_id` and `event_id` (where it came from), `valid_to`, `stale_at`, and `against`: a list
of `{"value", "version_id", "at", "actor", …}` that contradict the value. Times are RFC 3339. A field without a value is
unknown and has no entry; a field becomes stale by the clock alone, so that `stale` is never stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from trunkline.domain import ids
from trunkline.domain.memory import Actor, Source, actor_to_wire
from trunkline.domain.times import from_wire, to_wire
from trunkline.errors import InvalidRequest
from trunkline.memory.blocks import BlockDefinition
from trunkline.memory.operations import Operation, fields_of
from trunkline.memory.values import identity

State = dict[str, Any]

MAX_AGAINST: Final = 10
"""The most contradicting values that are kept beside one; somebody has to decide before more are taken."""

CLOCK_SKEW: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Written:
    """The write that a state tells of."""

    version_id: UUID
    at: datetime
    actor: Actor
    source: Source

    def to_json(self) -> State:
        """Return who, when and from where."""
        found: State = {
            "version_id": ids.encode("memver", self.version_id),
            "at": to_wire(self.at),
            "actor": {"type": self.actor.type, "id": self.actor.id},
        }
        if self.source.session_id is not None:
            found["session_id"] = ids.encode("sesn", self.source.session_id)
        if self.source.event_id is not None:
            found["event_id"] = ids.encode("sevt", self.source.event_id)
        return found


def contradicts(definition: BlockDefinition, value: Mapping[str, Any], operation: Operation) -> bool:
    """Tell whether an operation is to be recorded beside what the field says, and not in its place.

    So it is where it sets a field that says something else, the operation or the field asks for it, and the writer did
    not show by a precondition that it knows what it replaces.
    """
    if operation.op != "set" or len(operation.path) != 1 or operation.path[0] not in value:
        return False
    rule = definition.rule(operation.path[0])
    wanted = operation.on_conflict or ("supersede" if operation.has_precondition else rule.on_conflict)
    return wanted == "record" and identity(value[operation.path[0]]) != identity(operation.value)


def next_states(
    definition: BlockDefinition,
    before: Mapping[str, Any],
    states: Mapping[str, State],
    after: Mapping[str, Any],
    *,
    operations: Sequence[Operation],
    against: Sequence[Operation],
    written: Written,
) -> dict[str, State]:
    """Return the states after a write: `operations` were applied, `against` contradict. Equal to `states`: no change.

    A value that is set once more keeps its state, unless it was conflicted or stale, or the operation says from when to
    when it holds. Raises InvalidRequest for times that cannot be, and for one contradiction too many.
    """
    result: dict[str, State] = {}
    touched = {name: operation for operation in operations for name in fields_of(operation)}
    for name, value in after.items():
        state, operation = states.get(name), touched.get(name)
        unchanged = name in before and identity(before[name]) == identity(value)
        if state is not None and unchanged and (operation is None or not _renews(state, operation, written.at)):
            result[name] = state
        else:
            result[name] = _asserted(definition, name, state, operation, written)
    for operation in against:
        name = operation.path[0]
        if name in result:
            result[name] = _conflicted(name, result[name], operation, written)
    return result


def effective(state: State | None, at: datetime) -> str:
    """Return what a field is at a moment: unknown, asserted, stale or conflicted."""
    if state is None:
        return "unknown"
    if state["state"] == "conflicted":
        return "conflicted"
    return "stale" if "stale_at" in state and from_wire(state["stale_at"]) <= at else "asserted"


def state_to_wire(state: State | None, at: datetime) -> dict[str, Any]:
    """Return a field's state as the API tells it; `by` is the writer as the Managed Agents wire names one."""
    if state is None:
        return {"state": "unknown"}
    shown = _by(state) | {"state": effective(state, at)}
    if "against" in state:
        shown["against"] = [_by(other) for other in state["against"]]
    return shown


def _by(state: State) -> State:
    shown = {key: value for key, value in state.items() if key != "actor"}
    if "actor" in state:
        actor = Actor(**state["actor"])
        session = state.get("session_id")
        shown["by"] = actor_to_wire(actor, None if session is None else ids.decode("sesn", session))
    return shown


def _renews(state: State, operation: Operation, at: datetime) -> bool:
    if operation.op == "remove":
        return False
    given = (("valid_from", operation.valid_from), ("valid_to", operation.valid_to))
    return effective(state, at) != "asserted" or any(
        moment is not None and state.get(key) != to_wire(moment) for key, moment in given
    )


def _asserted(
    definition: BlockDefinition, name: str, before: State | None, operation: Operation | None, written: Written
) -> State:
    place = f"{definition.name}.{name}"
    state: State = {"state": "asserted", **written.to_json()}
    begins = written.at if operation is None or operation.valid_from is None else operation.valid_from
    ends = None if operation is None else operation.valid_to
    if begins > written.at + CLOCK_SKEW:
        raise _refused(place, f"valid_from {to_wire(begins)} is in the future; write the value when it holds")
    if operation is not None and operation.valid_from is not None and before is not None and "valid_from" in before:
        since = from_wire(before["valid_from"])
        if begins < since:
            raise _refused(
                place,
                f"valid_from {to_wire(begins)} is before {to_wire(since)}, since when the value holds that it would "
                "supersede; give a later time, or none",
            )
    if ends is not None and ends <= begins:
        raise _refused(place, f"valid_to {to_wire(ends)} is not after valid_from {to_wire(begins)}")
    state["valid_from"] = to_wire(begins)
    stale_after = definition.rule(name).stale_after
    stale = [] if stale_after is None else [written.at + timedelta(seconds=stale_after)]
    if ends is not None:
        state["valid_to"] = to_wire(ends)
        stale.append(ends)
    if stale:
        state["stale_at"] = to_wire(min(stale))
    return state


def _conflicted(name: str, state: State, operation: Operation, written: Written) -> State:
    there: list[State] = list(state.get("against", ()))
    if any(identity(other["value"]) == identity(operation.value) for other in there):
        return state
    if len(there) >= MAX_AGAINST:
        raise _refused(name, f"{MAX_AGAINST} values contradict it already; decide first, by a set with a precondition")
    return {**state, "state": "conflicted", "against": [*there, {"value": operation.value, **written.to_json()}]}


def _refused(where: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"{where}: {why}.", param=where)
