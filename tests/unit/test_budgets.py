"""What a session may use, and what it has used."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from trunkline.domain.budgets import Used

AT = datetime(2026, 11, 24, tzinfo=UTC)
NOTHING = Used(0, 0, 0, unpriced=False, active_us=0, running_since=None)
DOLLAR = {"type": "limit", "max_list_cost": {"amount": "100", "currency": "USD"}}


@pytest.mark.parametrize(
    ("used", "limit"),
    [
        (replace(NOTHING, turns=2, tokens=99, cost_nano=999_999_999, active_us=9_000_000), None),
        (replace(NOTHING, cost_nano=1_000_000_000), "max_list_cost"),
        (replace(NOTHING, unpriced=True), "max_list_cost"),
        (replace(NOTHING, turns=3), "max_turns"),
        (replace(NOTHING, tokens=100), "max_tokens"),
        (replace(NOTHING, active_us=9_000_000, running_since=AT - timedelta(seconds=1)), "max_active_seconds"),
    ],
)
def test_a_limit_is_reached_by_what_is_used_in_all(used: Used, limit: str | None) -> None:
    limits = {"max_turns": 3, "max_tokens": 100, "max_active_seconds": 10}
    assert used.reached(DOLLAR, limits, AT) == limit
    assert used.reached(None, None, AT) is None


def test_the_wire_tells_cents_and_nothing_where_it_is_not_known() -> None:
    assert replace(NOTHING, turns=1, cost_nano=14_999_999).to_wire(AT)["list_cost"]["amount"] == "1"
    assert replace(NOTHING, turns=1, cost_nano=15_000_000).to_wire(AT)["list_cost"]["amount"] == "2"
    assert "list_cost" not in replace(NOTHING, turns=1, unpriced=True).to_wire(AT)
    assert "list_cost" not in replace(NOTHING, tokens=5).to_wire(AT)  # by calls of a client's own


def test_a_clock_that_went_back_takes_no_time_away() -> None:
    used = replace(NOTHING, active_us=2_500_000, running_since=AT + timedelta(seconds=5))
    assert used.active_seconds(AT) == 2.5
