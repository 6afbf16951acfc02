from __future__ import annotations

import pytest

from trunkline.cli.demo.story import FACTS, Outcome, lost
from trunkline.client import StoredBlock

KNOWN: dict[str, object] = {
    "recent_purchases": ["red kettle", "tea towel"],
    "preferences": {"colour": "green", "size": "M"},
}
RENDERED = 'recent_purchases: ["red kettle","tea towel"]\nrequired but unknown: name'
ANSWER = "You bought red kettle, tea towel. You prefer colour green, size M. I still do not know your name."


def customer(value: dict[str, object], rendered: str = RENDERED) -> list[StoredBlock]:
    return [StoredBlock(block="customer", scope="user", value=value, rendered=rendered)]


def test_nothing_is_lost_when_all_is_known() -> None:
    assert lost(ANSWER, customer(KNOWN)) == []


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.word)
def test_a_fact_missing_from_the_answer_is_named(fact: object) -> None:
    word = getattr(fact, "word", "")
    assert [line for line in lost(ANSWER.replace(word, "…"), customer(KNOWN)) if repr(word) in line]


def test_a_fact_missing_from_the_store_is_named() -> None:
    missing = lost(ANSWER, customer({**KNOWN, "recent_purchases": ["tea towel"]}))
    assert missing == ["stored: customer.recent_purchases does not hold 'red kettle'"]


def test_silence_about_what_is_unknown_is_a_loss() -> None:
    assert lost(ANSWER.partition(" I still")[0], customer(KNOWN)) == ["answer: it does not say that 'name' is unknown"]
    assert lost(ANSWER, customer(KNOWN, "")) == [
        "stored: block customer does not say that 'name' is required but unknown"
    ]


def test_no_block_at_all_loses_everything() -> None:
    assert len(lost("", [])) == 2 * len(FACTS) + 2


def test_a_loss_is_told_as_json() -> None:
    assert Outcome(lost=["x"]).to_json()["ok"] is False
    assert Outcome().to_json()["ok"] is True
