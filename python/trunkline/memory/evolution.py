"""Changes of a block's schema: what is stored is checked against the new one; what would be lost needs a step.

Steps stand in the block's definition, under `migrate`, and are carried out in their order:
- `{rename: OLD, to: NEW}`: what OLD held, with where it came from, is NEW's from now on;
- `{drop: FIELD}`: the field is forgotten; its values stay readable in the block's versions;
- `{default: FIELD, value: …}`: the field gets this value where it is unknown, or holds what no longer fits.
A change that leaves every stored value valid (a new field, a wider type) needs none.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from trunkline.domain import ids
from trunkline.domain.memory import Actor, Memory
from trunkline.errors import Conflict
from trunkline.memory.blocks import BlockDefinition, MemoryDefinition
from trunkline.memory.declarations import declared
from trunkline.memory.operations import same
from trunkline.memory.states import State
from trunkline.memory.values import canonical
from trunkline.memory.writes import next_state, put
from trunkline.store import blocks
from trunkline.store.pool import Connection

MAX_EXAMPLES: Final = 10


@dataclass
class _Faults:
    """What speaks against a change: reason → memories, the first few of them by name."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, memory: Memory) -> None:
        self.counts[reason] = self.counts.get(reason, 0) + 1
        if self.counts[reason] <= MAX_EXAMPLES:
            self.examples.setdefault(reason, []).append(ids.encode("mem", memory.id))


async def evolve(
    connection: Connection,
    tenant_id: UUID,
    agent_id: UUID,
    before: MemoryDefinition,
    after: MemoryDefinition,
    *,
    actor: Actor,
) -> int:
    """Bring the stored blocks of an agent from one definition to the next; return how many were written.

    In the caller's transaction, which writes the agent's version too; writers of the blocks wait meanwhile. Raises
    Conflict, with nothing written, where a value would be lost or no longer fit.
    """
    written = 0
    for new in after.blocks:
        old = before.block(new.name)
        if old is None or (old.scope == new.scope and _harmless(old, new)):
            continue
        await blocks.lock_schema(connection, agent_id)
        faults = _Faults()
        async for memory in _stored(connection, tenant_id, agent_id, old):
            _check(old, new, memory, faults)
        if faults.counts:
            raise _refused(new, faults)
        async for memory in _stored(connection, tenant_id, agent_id, old):
            value, states = _stepped(new, memory.value, memory.states or {})
            if not same(value, memory.value):
                state = next_state(declared(new).stored(), memory.store_id, memory, value, actor=actor, states=states)
                record = [{"op": "migrate", **step.to_json()} for step in new.migrate]
                await put(connection, tenant_id, state, actor=actor, operations=record)
                written += 1
    return written


def _harmless(old: BlockDefinition, new: BlockDefinition) -> bool:
    """Tell whether no stored value can be concerned: fields were added at most."""
    kept = all(name in new.fields and canonical(new.fields[name]) == canonical(old.fields[name]) for name in old.fields)
    return kept and (not new.migrate or new.migrate == old.migrate)


async def _stored(
    connection: Connection, tenant_id: UUID, agent_id: UUID, block: BlockDefinition
) -> AsyncIterator[Memory]:
    after = ""
    while page := await blocks.stored(connection, tenant_id, agent_id, block.scope, block.name, after=after):
        for _, memory in page:
            yield memory
        after = page[-1][0]


def _check(old: BlockDefinition, new: BlockDefinition, memory: Memory, faults: _Faults) -> None:
    value = memory.value
    if old.scope != new.scope:
        faults.add(
            f"is kept for each {old.scope} and cannot become one for each {new.scope}; name it otherwise", memory
        )
        return
    for step in new.migrate:
        if step.kind == "rename" and step.field in value and step.to in value:
            faults.add(f"holds both {step.field} and {step.to}; drop one of them before the renaming", memory)
    after, _ = _stepped(new, value, {})
    for name in old.fields:
        if name in after and name not in new.fields:
            steps = f"{{drop: {name}}} or {{rename: {name}, to: …}}"
            faults.add(f"holds {name}, which is no longer declared; add {steps}", memory)
    for problem in new.problems(after):
        place = problem.partition(":")[0]
        name = place.split(".")[1] if "." in place else place
        faults.add(f"holds a {name} that no longer fits; add {{default: {name}, value: …}} or keep its schema", memory)


def _stepped(
    new: BlockDefinition, value: Mapping[str, Any], states: Mapping[str, State]
) -> tuple[dict[str, Any], dict[str, State]]:
    """Return the value and the states after the steps. A default's state is made where it is written."""
    result, provenance = dict(value), dict(states)
    for step in new.migrate:
        if step.kind == "rename" and step.field in result and step.to not in result:
            result[step.to] = result.pop(step.field)
            if step.field in provenance:
                provenance[step.to] = provenance.pop(step.field)
        elif step.kind == "drop":
            result.pop(step.field, None)
            provenance.pop(step.field, None)
        elif step.kind == "default" and (step.field not in result or new.problems({step.field: result[step.field]})):
            result[step.field] = step.value
            provenance.pop(step.field, None)
    return result, provenance


def _refused(block: BlockDefinition, faults: _Faults) -> Conflict:
    reasons = [f"{count} stored: {reason}" for reason, count in faults.counts.items()]
    return Conflict(
        f"memory.blocks.{block.name}: the change would lose or break what is stored; nothing was changed. "
        f"{'; '.join(reasons[:5])}. Steps go under memory.blocks.{block.name}.migrate.",
        param=f"memory.blocks.{block.name}",
        code="migration_needed",
        details={
            "faults": [
                {"reason": reason, "blocks": count, "memory_ids": faults.examples[reason]}
                for reason, count in faults.counts.items()
            ]
        },
    )
