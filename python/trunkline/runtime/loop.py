"""The loop: claim a session, ask the model or carry out what it calls, append what comes of it; and so on until idle.

Each step is saved in one transaction that checks the claim's fence, so that a session has one writer whatever happens
to workers. A worker killed in mid-step leaves a log that says so, and the next one asks the model again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, TypeVar

from trunkline.domain import ids
from trunkline.domain.events import SENT_TYPES, Event
from trunkline.domain.redaction import redactor
from trunkline.domain.times import now
from trunkline.errors import Unavailable
from trunkline.runtime import compaction, outcomes
from trunkline.runtime.appends import Appends
from trunkline.runtime.context import STEP, Conversation, ToolUse
from trunkline.runtime.model import Asker, Model, ModelError, Question, Reply
from trunkline.runtime.outcomes import Outcome
from trunkline.runtime.passages import said, store_of
from trunkline.runtime.renewals import Renewals
from trunkline.runtime.tools.calls import INTERRUPTED, Calls, Finished
from trunkline.runtime.tools.toolbox import Toolbox, Tools
from trunkline.store import leases, steps
from trunkline.store.events import NewEvent
from trunkline.store.leases import Claim, Head, Lease, LeaseLost, Tokens
from trunkline.store.pool import Connection, Database
from trunkline.store.steps import Append, Step

_logger = logging.getLogger(__name__)

LEASE_SECONDS: Final = 4.0
RENEW_SECONDS: Final = 1.0
"""A worker that is silent for `LEASE_SECONDS` has lost its sessions; it may miss two renewals in a row."""
ATTEMPTS: Final = 5
"""How often one model call is tried."""
_PAUSES: Final = (0.5, 1.0, 2.0, 4.0)
_LONGEST_PAUSE: Final = 30.0
_STORE_PAUSES: Final = (0.1, 0.2, 0.5, *(1.0 for _ in range(30)))
"""While the database is away a step's result is kept this long: asking the model again would cost as much again."""
_PAGE: Final = 1000
_NEVER: Final = 2**62
"""After any event's number."""
_Done = TypeVar("_Done")


@dataclass(frozen=True, slots=True)
class Runtime:
    """What all turns of one worker share."""

    database: Database
    model: Model
    tools: Tools
    renewals: Renewals
    appends: Appends


async def work(runtime: Runtime, claimed: Claim) -> None:
    """Carry out what a session has to do until it is idle.

    What is left undone, because the database is away or this is cancelled, is taken up again by whoever sees it first.
    """
    session_id = claimed.lease.session_id
    turn = _Turn(runtime, claimed)
    try:
        async with turn.held():
            await turn.run()
    except* LeaseLost:
        _logger.info("session %s has another worker now, or is gone", session_id)
    except* Unavailable as errors:
        _logger.warning("session %s is left for later: %s", session_id, errors.exceptions[0])
    finally:
        await turn.calls.stop()
        if not turn.is_over:
            await asyncio.shield(_release(runtime.database, claimed.lease))


async def _release(database: Database, lease: Lease) -> None:
    with contextlib.suppress(Unavailable):  # it runs out by itself
        async with database.tenant(lease.tenant_id) as connection:
            await leases.release(connection, lease)


class _Interrupted(Exception):
    """The user interrupted what was under way."""


@dataclass(frozen=True, slots=True)
class _Draft:
    """What is to be saved, and the step that the model is asked in then; None: it is not asked."""

    saved: Step
    step: Event | None


class _Turn:
    """The work of one claim. What is in memory is a copy of the log, thrown away whenever the two might differ."""

    def __init__(self, runtime: Runtime, claimed: Claim) -> None:
        lease, task = claimed.lease, claimed.task
        self._runtime = runtime
        self._lease = lease
        self._task = task
        self._redactor = redactor(task.redact) if task.redact_log else None
        self._step: Event | None = None
        self._compacts = compaction.rules(task.definition)
        self._under_way: asyncio.Task[Any] | None = None
        self._toolbox: Toolbox | None = None
        self.calls = Calls(lease, task)
        self._retry_after_s = 0.0
        self.is_over = False
        """The session was let go with the last event."""
        self._head: Head | None = None
        """As this worker left it; None: it is to be read anew."""
        self._forget()
        self._take_in(claimed.log)
        if self._seen == claimed.head.last_seq:
            self._head = claimed.head

    def _forget(self) -> None:
        self._conversation = Conversation(self_hosted=self._task.self_hosted)
        self._unprocessed: list[Event] = []
        self._seen = 0
        self._head = None

    async def run(self) -> None:
        """Ask, carry out and save until there is nothing left to do. Raises LeaseLost and Unavailable."""
        outcome = outcomes.NOTHING
        try:
            while await self._saved(outcome):
                outcome = await (self._ask() if self._step is not None else self._carry_out())
        except (LeaseLost, Unavailable):
            raise
        except Exception:
            # Whatever it is would happen again to whoever takes over: end the turn rather than the workers.
            _logger.exception("the turn of session %s failed", self._lease.session_id)
            self._forget()
            await self._saved(outcomes.broken(self._step))

    async def _saved(self, outcome: Outcome) -> bool:
        """Append a step's outcome, and with it the next step or the end; tell whether there is more to do."""
        for pause in _STORE_PAUSES:
            try:
                return await self._save(outcome)
            except Unavailable:
                self._forget()
                await asyncio.sleep(pause)
        return await self._save(outcome)

    async def _save(self, outcome: Outcome) -> bool:
        database, lease = self._runtime.database, self._lease
        if outcome.tokens.paid_as is not None:
            async with database.tenant(lease.tenant_id) as connection:
                outcome = replace(outcome, tokens=await leases.priced(connection, lease, outcome.tokens))
        if self._head is not None:  # mostly nothing was sent meanwhile, and one statement is enough
            draft = self._draft(self._head, (), outcome)
            if await self._runtime.appends.append(Append(lease, self._head, draft.saved)):
                return self._go_on(self._head, draft)
            self._forget()
        async with database.tenant(lease.tenant_id) as connection:
            head = await leases.lock(connection, lease)
            if head.key_id != self._task.key_id:  # another key has given it work meanwhile
                self._task, self._toolbox = await leases.task(connection, lease), None
            draft = self._draft(head, await self._read(connection), outcome)
            await steps.append(connection, [Append(lease, head, draft.saved)], wait=True)  # it is locked: it is saved
        return self._go_on(head, draft)

    def _draft(self, head: Head, news: Sequence[Event], outcome: Outcome) -> _Draft:
        """Work out what is to be appended, and what comes next. `news` is what was sent since the step was begun."""
        at = now()
        new: list[NewEvent] = []

        def append(*appended: NewEvent) -> Event:
            for one in appended:
                if self._redactor is not None:  # the model goes on from what the log says, whoever works on it
                    one = replace(one, payload=self._redactor.event(one.payload))  # noqa: PLW2901
                new.append(one)
                event = Event(one.id, head.last_seq + len(new), one.type, one.payload, at, at)
                self._conversation.add(event)
            return event

        is_new = bool(outcome.events) and all(event.id != outcome.events[0].id for event in news)
        if is_new:  # else it was saved before, and only the confirmation was lost
            append(*(outcome.closing if self._was_interrupted(news) else outcome.events))
        step, status, calls = None, head.status, False
        tokens = outcome.tokens if is_new else Tokens()
        if status == "running":
            calls = bool(self._conversation.to_carry_out) and not outcome.is_dead
            limit = None if outcome.is_dead else self._limit(head, tokens, at)
            if limit is not None:
                append(outcomes.used(head, tokens, at), outcomes.idle({"type": "budget_reached", "limit": limit}))
                status, calls = "idle", False
            elif calls and self._conversation.not_begun:
                self.calls.first_seen |= self._conversation.not_begun
                append(outcomes.used(head, tokens, at))
            elif self._conversation.wants_model and not outcome.is_dead:
                # One that was begun by a worker that is gone goes on under its idempotency key.
                step = self._conversation.step or append(NewEvent(ids.new(), STEP, {}, at))
                kept_from = compaction.due(self._conversation, self._compacts)
                if kept_from is not None and self._summarizer is None:
                    append(outcomes.compacted(kept_from))
            elif not calls:
                append(outcomes.idle(self._stop_reason(outcome)))
                status = "idle"
        taken_up = self._take_up()
        is_last = step is None and not calls
        saved = Step(
            events=new,
            status=status,
            tokens=tokens,
            taken_up=[event.seq for event in taken_up],
            said=said(self._task, [*taken_up, *new]),
            store_of=store_of(self._lease, self._task),
            is_last=is_last,
            at=at,
        )
        return _Draft(saved, step)

    def _go_on(self, head: Head, draft: _Draft) -> bool:
        """Take in that a step was saved; tell whether there is more to do."""
        saved = draft.saved
        self._seen = head.last_seq + len(saved.events)
        self._head = head.advanced(saved.status, self._seen, saved.tokens)
        self._step, self.is_over = draft.step, saved.is_last
        return not saved.is_last

    def _take_up(self) -> list[Event]:
        """Return those of the client's events that the model has been shown by now, for the first time."""
        waiting = {event.seq for event in self._conversation.queued}
        taken_up = [event for event in self._unprocessed if event.seq not in waiting]
        self._unprocessed = [event for event in self._unprocessed if event.seq in waiting]
        return taken_up

    async def _read(self, connection: Connection) -> list[Event]:
        """Take in what the log holds beyond what is known here, and return it."""
        news: list[Event] = []
        while True:
            page = await leases.log(connection, self._lease, after=self._seen, limit=_PAGE)
            self._take_in(page)
            news += page
            if len(page) < _PAGE:
                return news

    def _take_in(self, page: Sequence[Event]) -> None:
        for event in page:
            self._conversation.add(event)
            self._seen = event.seq
            if event.type in SENT_TYPES and event.processed_at is None:
                self._unprocessed.append(event)
                if event.type == "user.tool_confirmation":
                    self.calls.first_seen.add(event.payload["tool_use_id"])

    def _was_interrupted(self, news: Sequence[Event]) -> bool:
        step = self._step
        return step is not None and any(event.type == "user.interrupt" and event.seq > step.seq for event in news)

    def _stop_reason(self, outcome: Outcome) -> dict[str, object]:
        if outcome.is_dead:
            return {"type": "retries_exhausted"}
        waits_for = self._conversation.waits_for
        if waits_for:
            return {"type": "requires_action", "event_ids": list(waits_for)}
        return {"type": "refusal" if outcome.is_refused else "end_turn"}

    def _limit(self, head: Head, tokens: Tokens, at: datetime) -> str | None:
        """Return the limit of the session that keeps the next step from being begun; None: it may be begun.

        What was begun goes on: the step of a worker that is gone, and tools that may have had their effect.
        """
        conversation = self._conversation
        calls = {use.event_id for use in conversation.to_carry_out}
        begun = calls - self.calls.first_seen - conversation.not_begun
        if begun or conversation.step is not None or not (calls or conversation.wants_model):
            return None
        return head.after(tokens).reached(head.budget, head.limits, at)

    async def _ask(self) -> Outcome:
        """Ask the model, and return what is to be appended: its answer, its failure, or that it was interrupted."""
        step = self._step
        if step is None:
            raise RuntimeError("the model is asked outside a step")
        try:
            outcome = await self._interruptible(self._answered(step))
        except ModelError as error:
            failures = self._conversation.failures + 1
            self._retry_after_s = error.retry_after_s or 0.0
            return outcomes.failed(step, error, exhausted=not error.transient or failures >= ATTEMPTS)
        except Unavailable as error:  # for the worker's key; saving waits for the database
            away = ModelError("unknown_error", error.message, transient=True)
            return outcomes.failed(step, away, exhausted=self._conversation.failures + 1 >= ATTEMPTS)
        except _Interrupted:
            return outcomes.interrupted(step)
        self.calls.first_seen.update(ids.encode("sevt", event.id) for event in outcome.events)
        return outcome

    async def _carry_out(self) -> Outcome:
        """Carry out the calls that are open, and return the results of those that are done first."""
        uses = self._conversation.to_carry_out
        try:
            return outcomes.carried_out(await self._interruptible(self._finished(uses)))
        except _Interrupted:
            await self.calls.stop()
            return outcomes.carried_out((use, INTERRUPTED) for use in uses)

    async def _finished(self, uses: Sequence[ToolUse]) -> list[Finished]:
        return await self.calls.finished(uses, await self._tools())

    async def _tools(self) -> Toolbox:
        """Return what the agent may call: the same throughout a claim, unless another key gives it work."""
        if self._toolbox is None:
            self._toolbox = await self._runtime.tools.open(self._runtime.database, self._lease, self._task)
        return self._toolbox

    async def _interruptible(self, work: Coroutine[Any, Any, _Done]) -> _Done:
        """Do what the user may interrupt. Raises _Interrupted."""
        under_way = asyncio.create_task(work)
        self._under_way = under_way
        try:
            return await under_way
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
            raise _Interrupted from None
        finally:
            self._under_way = None

    @property
    def _summarizer(self) -> str | None:
        return None if self._compacts is None else self._compacts.budget.summary_model

    async def _answered(self, step: Event) -> Outcome:
        """Ask for the summary that has to come first, or for the answer. Raises ModelError and Unavailable."""
        kept_from = compaction.due(self._conversation, self._compacts)
        if kept_from is None or self._compacts is None or self._summarizer is None:
            return outcomes.replied(step, await self._call(step), await self._tools())
        text = compaction.to_sum_up(self._conversation, kept_from, self._compacts)
        model = self._summarizer
        try:
            reply = await self._runtime.model.sum_up(self._asker(step), model, text)
        except ModelError as error:
            _logger.warning("session %s is compacted without a summary: %s", self._lease.session_id, error)
            return outcomes.summed_up(step, kept_from, model, None)
        return outcomes.summed_up(step, kept_from, model, reply)

    def _asker(self, step: Event) -> Asker:
        return Asker(ids.encode("sevt", step.id), self._lease.tenant_id, self._task.user_id, self._task.key_id)

    async def _call(self, step: Event) -> Reply:
        failures = self._conversation.failures
        if failures:
            pause = _PAUSES[min(failures, len(_PAUSES)) - 1] * random.uniform(0.75, 1.25)  # noqa: S311 (no secret)
            await asyncio.sleep(min(max(pause, self._retry_after_s), _LONGEST_PAUSE))
        definition = self._task.definition
        # The gateway puts in the rest of the version that the session is pinned to: instructions, model, memory.
        tools = (await self._tools()).offers()
        return await self._runtime.model.ask(
            Question(
                self._asker(step),
                self._task.agent_id,
                self._task.agent_version,
                definition["name"],
                self._lease.session_id,
                compaction.shown(self._conversation, self._compacts),
                tools,
            )
        )

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Renew the lease as long as the block runs, and end the model call, or the tools, when the user interrupts it.

        Raises LeaseLost, in a group, out of the block once another has the session.
        """
        async with asyncio.TaskGroup() as tasks:
            renewing = tasks.create_task(self._renew())
            yield
            renewing.cancel()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            under_way = self._under_way
            since = _NEVER if under_way is None else self._seen
            with contextlib.suppress(Unavailable):
                interrupted = await self._runtime.renewals.renew(self._lease, since=since)
                if interrupted and under_way is not None and under_way is self._under_way:
                    under_way.cancel()
