"""Consolidation ("dreaming"): a model proposes what sessions have to say to blocks, behind the conversations' backs.

What is asked is written down before it is asked, and the answer, the versions it makes and how far the session is are
written in one transaction. So a worker may be killed at any moment: another one asks the same under the same key, is
given what was paid for, and nothing is half applied.
"""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from trunkline.domain import ids
from trunkline.domain.grants import Stores
from trunkline.domain.memory import Subject
from trunkline.domain.memory_proposals import MemoryProposal
from trunkline.domain.principal import Principal
from trunkline.domain.times import now
from trunkline.errors import Unavailable
from trunkline.memory import proposals
from trunkline.memory.proposals import PROPOSAL_TOOL, Proposed
from trunkline.memory.reads import read_blocks
from trunkline.runtime.model import Asker, Model, ModelError, Reply
from trunkline.store import consolidations, memory_proposals, redaction
from trunkline.store.blocks import agent_memory
from trunkline.store.consolidations import Claimed
from trunkline.store.pool import Connection, Database

_logger = logging.getLogger(__name__)

AT_ONCE: Final = 4
CLAIM_SECONDS: Final = 60
"""A worker that is frozen so long is given up; one that is killed, at once. Two that ask, ask for one answer."""
EVENTS: Final = 500
"""Looked at for one run, at most."""
ATTEMPTS: Final = 8
"""After so many failures in a row a session waits until something is said in it."""
_PAUSE: Final = timedelta(seconds=30)
_LONGEST_PAUSE: Final = timedelta(hours=6)


@dataclass(frozen=True, slots=True)
class _Run:
    """A run under way: `model` is asked `text` under the id."""

    tenant_id: UUID
    session_id: UUID
    id: UUID
    asker: Asker
    model: str
    text: str


class Consolidator:
    """Looks through sessions that are due, in the name of a worker."""

    def __init__(self, model: Model, worker: str) -> None:
        self._model = model
        self._worker = worker

    async def consolidate_due(self, database: Database) -> bool:
        """Look through some of what is due, and tell whether there may be more. Raises Unavailable."""
        async with database.transaction() as connection:
            due = await consolidations.claim(connection, self._worker, limit=AT_ONCE, seconds=CLAIM_SECONDS)
        await asyncio.gather(*(self._consolidate(database, *one) for one in due))
        return len(due) == AT_ONCE

    async def _consolidate(self, database: Database, tenant_id: UUID, session_id: UUID) -> None:
        used: int | None = None  # what the model's answer took, where that is known
        try:
            async with database.tenant(tenant_id) as connection:
                run = await self._begin(connection, tenant_id, session_id)
            if run is None:
                return
            reply = await self._model.propose(run.asker, run.model, run.text)
            used = sum(reply.usage.values())
            async with database.tenant(tenant_id) as connection:
                await self._finish(connection, run, reply)
        except Unavailable as error:
            _logger.info("session %s is consolidated later: %s", session_id, error)
        except ModelError as error:
            _logger.warning("session %s is consolidated later: %s", session_id, error)
            await self._put_off(database, tenant_id, session_id, error.message, used=0 if error.refused else None)
        except Exception as error:
            _logger.exception("consolidating session %s failed", session_id)
            await self._put_off(database, tenant_id, session_id, type(error).__name__, used=used)

    async def _begin(self, connection: Connection, tenant_id: UUID, session_id: UUID) -> _Run | None:
        """Return the run that is under way, or a new one, written down; None: there is nothing to ask."""
        claimed = await consolidations.lock(connection, tenant_id, session_id, self._worker)
        if claimed is None:
            return None
        rules = claimed.consolidate
        if rules is None:
            await _wait_for_news(connection, tenant_id, session_id)
            return None
        if claimed.run_id is not None and claimed.run is not None:
            return _run(tenant_id, session_id, claimed, claimed.run_id, claimed.run)
        said = await consolidations.said(connection, tenant_id, session_id, after=claimed.done_seq, limit=EVENTS)
        principal, subject = _principal(tenant_id, claimed), Subject(claimed.user_id, session_id)
        agent = await agent_memory(connection, principal, ids.encode("agent", claimed.agent_id))
        agent = proposals.open_blocks(agent, principal, subject)
        if not said or not agent.blocks:
            done = said[-1].seq if said else claimed.done_seq
            await consolidations.finish(
                connection, tenant_id, session_id, done_seq=done, more=True, idle_seconds=rules["idle_seconds"]
            )
            return None
        states = await read_blocks(connection, tenant_id, agent, agent.blocks, subject)
        material = proposals.material(states, said, rules["run_tokens"])
        today = now().astimezone(UTC).date()
        if not await consolidations.draw(
            connection, tenant_id, claimed.agent_id, today, material.tokens, most=rules["daily_tokens"]
        ):
            tomorrow = datetime.combine(today + timedelta(days=1), datetime.min.time(), UTC)
            error = "The agent's tokens of the day (memory.consolidate.daily_tokens) are spent."
            await consolidations.put_off(
                connection, tenant_id, session_id, until=tomorrow, error=error, failures=claimed.failures
            )
            return None
        run_id = ids.new()
        asked = {
            "model": rules["model"],
            "text": material.text,
            "blocks": dict(material.blocks),
            "events": {str(number): str(event) for number, event in material.events.items()},
            "review": rules["review"],
            "more": len(material.events) < len(said) or len(said) == EVENTS,
        }
        await consolidations.begin(
            connection,
            tenant_id,
            session_id,
            run_id,
            to_seq=material.up_to,
            day=today,
            tokens=material.tokens,
            run=asked,
        )
        return _run(tenant_id, session_id, claimed, run_id, asked)

    async def _finish(self, connection: Connection, run: _Run, reply: Reply) -> None:
        """Write what the model proposes, or keep it for review, and how far the session is by now.

        What the agent says now counts: nothing is written of what it does not want any more, or wants to review.
        """
        claimed = await consolidations.lock(connection, run.tenant_id, run.session_id, self._worker)
        if claimed is None or claimed.run_id != run.id or claimed.run is None or claimed.run_to_seq is None:
            return  # another worker was given the same answer, or the session is gone
        asked, rules = claimed.run, claimed.consolidate
        await consolidations.settle(connection, run.tenant_id, claimed, sum(reply.usage.values()))
        if rules is None:
            await _wait_for_news(connection, run.tenant_id, run.session_id)
            return
        principal, subject = _principal(run.tenant_id, claimed), Subject(claimed.user_id, run.session_id)
        name = ids.encode("agent", claimed.agent_id)
        agent = proposals.open_blocks(await agent_memory(connection, principal, name), principal, subject)
        hide = await redaction.of(connection, run.tenant_id, None, [claimed.agent_id])
        seen = {block: json.loads(content) for block, content in asked["blocks"].items()}
        events = {int(number): UUID(event) for number, event in asked["events"].items()}
        waits = bool(asked["review"] or rules["review"])
        for call in reply.calls:
            if call.name != PROPOSAL_TOOL["name"]:
                continue
            for proposed in proposals.read(call.input, agent, seen, events, hide):
                version_id, error = None, proposed.error
                if error is None and not waits:
                    state, error = await proposals.carry_out(connection, principal, name, proposed, subject)
                    version_id = state.memory.version_id if state and state.changed and state.memory else None
                one = _proposal(run, claimed, proposed, error=error, waits=waits, version_id=version_id)
                await memory_proposals.insert(connection, run.tenant_id, one)
        await consolidations.finish(
            connection,
            run.tenant_id,
            run.session_id,
            done_seq=claimed.run_to_seq,
            more=bool(asked["more"]),
            idle_seconds=rules["idle_seconds"],
        )

    async def _put_off(
        self, database: Database, tenant_id: UUID, session_id: UUID, error: str, *, used: int | None
    ) -> None:
        """Try a session again later, with another call: what failed under a key fails under it again.

        Where nobody knows what the call has `used`, all that was drawn for it stays drawn.
        """
        async with database.tenant(tenant_id) as connection:
            claimed = await consolidations.lock(connection, tenant_id, session_id, self._worker)
            if claimed is None:
                return
            if used is not None:
                await consolidations.settle(connection, tenant_id, claimed, used)
            failures = claimed.failures + 1
            pause = min(_PAUSE * 2 ** min(failures - 1, 10), _LONGEST_PAUSE)
            until = now() + pause if failures < ATTEMPTS else None
            await consolidations.put_off(
                connection, tenant_id, session_id, until=until, error=error[:1000], failures=failures
            )


async def _wait_for_news(connection: Connection, tenant_id: UUID, session_id: UUID) -> None:
    error = "The agent's memory is not consolidated any more, or the session or the agent is archived."
    await consolidations.put_off(connection, tenant_id, session_id, until=None, error=error, failures=0)


def _principal(tenant_id: UUID, claimed: Claimed) -> Principal:
    """Return whom consolidation acts as: the agent, for the session's user, within what its key grants."""
    return Principal(
        tenant_id,
        claimed.key_id or UUID(int=0),
        "consolidation",
        frozenset({"memory"}),
        agent_id=claimed.agent_id,
        user_id=claimed.user_id,
        stores=Stores.from_json(claimed.stores),
        tools=None if claimed.tools is None else tuple(claimed.tools),
    )


def _run(tenant_id: UUID, session_id: UUID, claimed: Claimed, run_id: UUID, asked: Any) -> _Run:
    asker = Asker(f"consolidation-{run_id.hex}", tenant_id, claimed.user_id, claimed.key_id)
    return _Run(tenant_id, session_id, run_id, asker, asked["model"], asked["text"])


def _proposal(
    run: _Run, claimed: Claimed, proposed: Proposed, *, error: str | None, waits: bool, version_id: UUID | None
) -> MemoryProposal:
    at = now()
    return MemoryProposal(
        ids.new(),
        claimed.agent_id,
        run.session_id,
        claimed.user_id,
        run.id,
        proposed.block,
        proposed.scope,
        proposed.operations,
        proposed.events,
        proposed.reason,
        "refused" if error is not None else "pending" if waits else "applied",
        error,
        version_id,
        at,
        None if error is None and waits else at,
    )
