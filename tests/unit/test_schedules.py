from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from trunkline.domain.schedules import Cron, Once, as_cron, jittered, times, upcoming


def cron(expression: str, timezone: str = "America/New_York", **more: int) -> Cron:
    return Cron.model_validate({"type": "cron", "expression": expression, "timezone": timezone, **more})


def walls(schedule: Cron, after: str, count: int) -> list[str]:
    found = islice(times(schedule, datetime.fromisoformat(after)), count)
    return [f"{moment.astimezone(ZoneInfo(schedule.timezone)):%m-%d %H:%M %Z}" for moment in found]


def test_a_daily_run_is_not_lost_where_clocks_go_forward() -> None:
    assert walls(cron("30 2 * * *"), "2026-03-07T00:00:00-05:00", 3) == [
        "03-07 02:30 EST",
        "03-08 03:00 EDT",
        "03-09 02:30 EDT",
    ]


def test_a_daily_run_is_not_doubled_where_clocks_go_back() -> None:
    assert walls(cron("30 1 * * *"), "2026-10-31T00:00:00-04:00", 3) == [
        "10-31 01:30 EDT",
        "11-01 01:30 EDT",
        "11-02 01:30 EST",
    ]


def test_two_runs_in_the_hour_left_out_are_one() -> None:
    assert walls(cron("15,45 2 * * *"), "2026-03-08T00:00:00-05:00", 2) == ["03-08 03:00 EDT", "03-09 02:15 EDT"]


def test_an_hourly_run_goes_on_through_both() -> None:
    back = list(islice(times(cron("0 * * * *"), datetime(2026, 11, 1, 4, tzinfo=UTC)), 5))
    forward = list(islice(times(cron("0 * * * *"), datetime(2026, 3, 8, 5, tzinfo=UTC)), 5))
    for found in (back, forward):
        assert {later - earlier for earlier, later in pairwise(found)} == {timedelta(hours=1)}


@given(
    st.sampled_from(("*/7 * * * *", "0 * * * *", "30 2 * * *", "5 1,2,3 * * *", "0 0 1 * *", "*/20 */5 * * 1-5")),
    st.sampled_from(("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu")),
    st.integers(0, 366 * 24 * 60),
    st.integers(1, 30),
)
@settings(max_examples=150, deadline=None)
def test_where_one_begins_changes_nothing(expression: str, timezone: str, minutes: int, skip: int) -> None:
    begin = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)
    schedule = cron(expression, timezone)
    found = list(islice(times(schedule, begin), skip + 5))
    assert found == sorted(set(found))
    assert found[0] > begin
    assert list(islice(times(schedule, found[skip - 1]), 5)) == found[skip:]


def test_a_schedule_that_no_clock_has_is_refused() -> None:
    for expression in ("@daily", "0 0 L * *", "0 0 * * 5#1", "* * * * * *", "0 0 31 2 *", "61 * * * *", "0 0 ? * *"):
        with pytest.raises(ValidationError):
            cron(expression)
    with pytest.raises(ValidationError, match="IANA"):
        cron("0 0 * * *", "Mars/Olympus")
    assert walls(cron("0 9 * * MON-FRI", "UTC"), "2026-11-20T10:00:00+00:00", 1) == ["11-23 09:00 UTC"]


def test_one_moment_comes_once() -> None:
    once = Once.model_validate({"type": "once", "at": "2026-12-01T10:30:00+01:00"})
    assert upcoming(once, datetime(2026, 11, 1, tzinfo=UTC)) == [datetime(2026, 12, 1, 9, 30, tzinfo=UTC)]
    assert upcoming(once, datetime(2026, 12, 1, 9, 30, tzinfo=UTC)) == []
    assert as_cron(once)["expression"] == "30 9 1 12 *"


def test_jitter_is_bounded_and_the_same_each_time() -> None:
    schedule, moment = cron("0 9 * * *", jitter_seconds=60), datetime(2026, 11, 23, 9, tzinfo=UTC)
    late = [jittered(schedule, UUID(int=number), moment) - moment for number in range(100)]
    assert all(timedelta(0) <= one <= timedelta(seconds=60) for one in late)
    assert len(set(late)) > 90
    assert jittered(schedule, UUID(int=7), moment) - moment == late[7]
