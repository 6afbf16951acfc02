"""What the recall benchmark counts, on answers that can be counted by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trunkline.benchmarks.recall_measures import Found, means, measures, percentiles
from trunkline.benchmarks.recall_set import read
from trunkline.errors import InvalidRequest


def test_an_answer_is_measured_by_where_its_evidence_stands() -> None:
    answer = [Found(f"t{n}", f"s{n % 3}", 300) for n in range(20)]
    got = measures(answer, {"t1": "s1", "t7": "s1", "t9": "s0", "nowhere": "s9"})
    assert got["turn_recall@5"] == 1 / 4
    assert got["turn_recall@10"] == 3 / 4
    assert got["session_recall@10"] == 2 / 3
    assert got["mrr"] == 1 / 2
    assert got["ndcg@10"] == pytest.approx((0.63093 + 0.31546 + 0.28906) / 2.56161, abs=1e-4)
    assert got["turn_recall_in_2000_tokens"] == 1 / 4, "six passages of 300 tokens"
    assert got["tokens_returned"] == 3000
    assert measures([], {"t": "s"})["mrr"] == 0


def test_means_are_percent() -> None:
    assert means([{"mrr": 1.0, "tokens_returned": 30}, {"mrr": 0.5, "tokens_returned": 50}]) == {
        "mrr": 75.0,
        "tokens_returned": 40.0,
    }
    assert percentiles([0.001 * n for n in range(101)]) == (50.0, 95.0)
    assert percentiles([0.004]) == (4.0, 4.0)


TURN = {"id": "1", "session": "s", "speaker": "A", "text": "Hello"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not a recall set"),
        (json.dumps({"name": "x", "conversations": []}), "conversations"),
        (json.dumps({"name": "x", "conversations": [{"id": "c", "turns": [TURN, TURN], "questions": []}]}), "one id"),
        (
            json.dumps(
                {
                    "name": "x",
                    "conversations": [
                        {"id": "c", "turns": [TURN], "questions": [{"question": "?", "evidence": ["2"]}]}
                    ],
                }
            ),
            "no turn is called 2",
        ),
    ],
)
def test_a_wrong_set_is_told_from_a_right_one(tmp_path: Path, content: str, said: Any) -> None:
    path = tmp_path / "set.json"
    path.write_text(content)
    with pytest.raises(InvalidRequest, match=said):
        read(path)
    with pytest.raises(InvalidRequest, match="No such file"):
        read(tmp_path / "none.json")
