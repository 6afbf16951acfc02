"""Schedules: when a deployment runs, by cron in a time zone, or once.

Where clocks are set forward, a time of day that is left out runs at the moment of the change. Where they are set back,
one that comes twice runs the first time. An expression whose hour is `*` or `*/n` means every such hour that passes:
it runs in both of them, and there is nothing to make up for.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Annotated, Any, Final, Literal
from uuid import UUID
from zoneinfo import ZoneInfo

from croniter import CroniterError, croniter
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator

UPCOMING: Final = 5
_FIELD: Final = re.compile(r"[0-9A-Za-z*,/-]+")
_WORD: Final = re.compile(r"[A-Za-z]+")
_WORDS: Final = frozenset("JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC SUN MON TUE WED THU FRI SAT".split())  # noqa: SIM905
_SHIFT: Final = timedelta(hours=3)
"""More than clocks are set back by."""

CatchUp = Literal["skip", "latest", "all"]
Overlap = Literal["parallel", "skip", "queue"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Cron(_Frozen):
    """Runs again and again.

    What was missed while no worker ran is made up for by `catch_up`: not at all, by the latest time, or by all, at most
    `catch_up_limit`. A run starts up to `jitter_seconds` late, always as much for one time. `overlap` says what happens
    while the session of the run before still works.
    """

    type: Literal["cron"]
    expression: Annotated[str, Field(max_length=256)]
    timezone: Annotated[str, Field(max_length=64)]
    catch_up: CatchUp = "skip"
    catch_up_limit: Annotated[int, Field(ge=1, le=100)] = 10
    jitter_seconds: Annotated[int, Field(ge=0, le=3600)] = 0
    overlap: Overlap = "parallel"

    @field_validator("expression")
    @classmethod
    def _five_fields(cls, expression: str) -> str:
        fields = expression.split()
        words = {word.upper() for field in fields for word in _WORD.findall(field)}
        if len(fields) != 5 or not all(_FIELD.fullmatch(field) for field in fields) or not words <= _WORDS:
            raise ValueError(
                "must be five fields, minute hour day month weekday, of numbers, names, `*`, lists, ranges and steps"
            )
        try:
            croniter(expression, datetime(2024, 1, 1)).get_next(datetime)  # noqa: DTZ001 (wall-clock time)
        except (CroniterError, ValueError) as error:
            raise ValueError(f"is no cron expression that has a next time: {error}") from error
        return expression

    @field_validator("timezone")
    @classmethod
    def _known(cls, timezone: str) -> str:
        try:
            ZoneInfo(timezone)
        except (KeyError, ValueError, OSError) as error:
            raise ValueError("must be the name of an IANA time zone, such as Europe/Berlin or UTC") from error
        return timezone


class Once(_Frozen):
    """Runs at one moment."""

    type: Literal["once"]
    at: AwareDatetime
    catch_up: Literal["skip", "latest"] = "latest"


Schedule = Annotated[Cron | Once, Field(discriminator="type")]


def times(schedule: Cron | Once, after: datetime) -> Iterator[datetime]:
    """Yield the moments after `after` at which a schedule runs, in order, in UTC."""
    if isinstance(schedule, Once):
        if schedule.at > after:
            yield schedule.at.astimezone(UTC)
        return
    zone = ZoneInfo(schedule.timezone)
    hourly = schedule.expression.split()[1].startswith("*")
    early = after - _SHIFT if _changes(zone, after - _SHIFT) else after
    walk = croniter(schedule.expression, early.astimezone(zone).replace(tzinfo=None, microsecond=0))
    waiting: set[datetime] = set()
    hold: datetime | None = None  # where clocks are set back, a later time of day can come before an earlier one
    last = after
    while True:
        try:
            wall: datetime | None = walk.get_next(datetime)
        except CroniterError:  # there is none within 50 years
            wall = None
        if wall is not None:
            found = _moments(wall, zone, hourly=hourly)
            waiting.update(found)
            if any(_changes(zone, moment) for moment in found):
                hold = wall + _SHIFT
            if hold is not None and wall < hold:
                continue
        for moment in sorted(waiting):
            if moment > last:
                last = moment
                yield moment
        if wall is None:
            return
        waiting, hold = set(), None


def upcoming(schedule: Cron | Once, after: datetime) -> list[datetime]:
    """Return the next moments at which a schedule runs."""
    return list(islice(times(schedule, after), UPCOMING))


def jittered(schedule: Cron | Once, deployment_id: UUID, moment: datetime) -> datetime:
    """Return when the run of a moment starts: the same for whoever asks."""
    if isinstance(schedule, Once) or not schedule.jitter_seconds:
        return moment
    digest = hashlib.sha256(deployment_id.bytes + moment.isoformat().encode()).digest()
    share = int.from_bytes(digest[:4], "big") / 2**32
    return moment + timedelta(seconds=share * schedule.jitter_seconds)


def as_cron(schedule: Cron | Once) -> dict[str, Any]:
    """Return a schedule in the wire's words, which know cron alone: one moment is its minute in UTC, and `at`."""
    if isinstance(schedule, Cron):
        return schedule.model_dump(mode="json")
    at = schedule.at.astimezone(UTC)
    return {
        "type": "cron",
        "expression": f"{at.minute} {at.hour} {at.day} {at.month} *",
        "timezone": "UTC",
        "at": at.isoformat().replace("+00:00", "Z"),
        "catch_up": schedule.catch_up,
    }


def _moments(wall: datetime, zone: ZoneInfo, *, hourly: bool) -> list[datetime]:
    """Return the moments of a wall-clock time: one, two where it comes twice, and for what is left out the change."""
    first, second = (wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    if first == second:
        return [first]
    if first < second:  # it comes twice
        return [first, second] if hourly else [first]
    if hourly:
        return []
    before, changed = int(second.timestamp()), int(first.timestamp())  # the change is between the two
    offset = first.astimezone(zone).utcoffset()
    while changed - before > 1:
        middle = (before + changed) // 2
        if datetime.fromtimestamp(middle, zone).utcoffset() == offset:
            changed = middle
        else:
            before = middle
    return [datetime.fromtimestamp(changed, UTC)]


def _changes(zone: ZoneInfo, moment: datetime) -> bool:
    """Tell whether the clocks are set soon after a moment."""
    return moment.astimezone(zone).utcoffset() != (moment + _SHIFT).astimezone(zone).utcoffset()
