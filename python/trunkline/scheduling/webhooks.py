"""Telling webhooks what is due: signed, to public addresses alone, again after failures, paused where none answers."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final

from trunkline.domain.times import now
from trunkline.domain.webhooks import Due, in_force, sealed_for, signed
from trunkline.errors import Unavailable
from trunkline.public_http import NotReached, answer
from trunkline.store import webhooks
from trunkline.store.pool import Database
from trunkline.store.queries import queries
from trunkline.store.sealing import Sealing

_logger = logging.getLogger(__name__)

AT_ONCE: Final = 20
TIMEOUT_SECONDS: Final = 10.0
"""For the whole of one attempt."""
_CLAIM_SECONDS: Final = 60
"""Others try again what was claimed so long ago: longer than an attempt and noting how it went can take."""
PAUSES: Final = (5, 30, 120, 600, 1800, 3600, 7200, 14_400, 28_800)
"""Seconds between one attempt and the next, a fifth more or less; after the last, about 16 hours on, none follows."""
_GONE: Final = 410


class Webhooks:
    """Tells webhooks what is due. `allow` are networks that they may go to beside public addresses."""

    def __init__(self, sealing: Sealing, allow: Sequence[IPv4Network | IPv6Network] = ()) -> None:
        self._sealing = sealing
        self._allow = tuple(allow)

    async def deliver_due(self, database: Database) -> bool:
        """Attempt what is due, and tell whether there may be more. Raises Unavailable."""
        async with database.transaction() as connection:
            due = await webhooks.claim(connection, limit=AT_ONCE, seconds=_CLAIM_SECONDS)
        await asyncio.gather(*(self._attempt(database, one) for one in due))
        return len(due) == AT_ONCE

    async def _attempt(self, database: Database, due: Due) -> None:
        answered: int | None = None
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                answered = await self._send(due)
            error = None if 200 <= answered < 300 else f"It answered with status {answered}."
        except TimeoutError:
            error = f"It did not answer within {TIMEOUT_SECONDS:.0f} s."
        except NotReached as failed:
            error = str(failed)
        except Unavailable as away:  # the secret cannot be opened here
            error = away.message
        async with database.tenant(due.tenant_id) as connection:
            if error is None and answered is not None:
                await webhooks.delivered(connection, due, answered, now())
                return
            next_at = _next(due.attempts) if answered != _GONE else None
            await webhooks.not_delivered(
                connection,
                due,
                answered=answered,
                error=error or "",
                next_at=next_at,
                paused_reason=None if next_at is not None else _reason(answered, error or ""),
            )

    async def _send(self, due: Due) -> int:
        """Send it once and return the status of the answer, whose body nobody reads."""
        kept = self._sealing.open(due.secret, *sealed_for(due.tenant_id, due.webhook_id))
        at, body = now(), due.body
        headers = {
            "content-type": "application/json",
            "user-agent": "trunkline-webhooks",
            **signed(in_force(kept, at), due.event_id, at, body),
        }
        async with answer(
            "POST",
            due.url,
            allow=self._allow,
            setting="webhooks.allow",
            headers=headers,
            content=body,
            seconds=TIMEOUT_SECONDS,
        ) as response:
            return response.status_code


async def forget_deliveries(database: Database) -> None:
    """Delete what webhooks were told 30 days ago. Raises Unavailable."""
    async with database.transaction() as connection:
        await connection.execute(queries("webhooks")["forget"])


def _next(attempts: int) -> datetime | None:
    if attempts > len(PAUSES):
        return None
    return now() + timedelta(seconds=PAUSES[attempts - 1] * random.uniform(0.8, 1.2))  # noqa: S311 (no secret)


def _reason(answered: int | None, error: str) -> dict[str, Any]:
    """Return why a webhook is paused, for who looks at it."""
    if answered == _GONE:
        return {"type": "gone", "message": "It answered 410 Gone. Set `status` to `enabled` to have it told again."}
    return {
        "type": "failing",
        "message": f"An event could not be delivered in {len(PAUSES) + 1} attempts: {error} Set `status` to `enabled` "
        "to have it told again.",
    }
