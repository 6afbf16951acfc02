"""How good answers are: measures of one ranked answer, and their means."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, quantiles
from typing import Final

DEPTHS: Final = (5, 10, 50)
BUDGET: Final = 2000
"""Tokens that the passages of a prompt may take."""


@dataclass(frozen=True, slots=True)
class Found:
    """One passage of an answer."""

    turn: str
    session: str
    tokens: int


def measures(answer: Sequence[Found], evidence: Mapping[str, str]) -> dict[str, float]:
    """Return the measures of one answer, best first, as shares of 1.

    `evidence` maps the turns wanted to their sessions. Session recall is of the sessions in which evidence stands,
    among those of the first ten passages. nDCG has gains of 0 and 1. `tokens_returned` is how long these ten are.
    """
    turns = [found.turn for found in answer]
    sessions = {found.session for found in answer[:10]}
    wanted = set(evidence.values())
    gain = sum(1 / math.log2(place + 2) for place, turn in enumerate(turns[:10]) if turn in evidence)
    ideal = sum(1 / math.log2(place + 2) for place in range(min(10, len(evidence))))
    return {
        **{f"turn_recall@{depth}": _share(turns[:depth], evidence) for depth in DEPTHS},
        "session_recall@10": len(wanted & sessions) / len(wanted),
        "ndcg@10": gain / ideal,
        "mrr": next((1 / (place + 1) for place, turn in enumerate(turns) if turn in evidence), 0.0),
        f"turn_recall_in_{BUDGET}_tokens": _share([found.turn for found in _within(answer, BUDGET)], evidence),
        "tokens_returned": sum(found.tokens for found in answer[:10]),
    }


def means(all_measures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the means over questions: percent, and tokens as they are."""
    return {
        name: round(fmean(one[name] for one in all_measures) * (1 if name == "tokens_returned" else 100), 2)
        for name in all_measures[0]
    }


def percentiles(seconds: Sequence[float]) -> tuple[float, float]:
    """Return the median and the 95th percentile, in milliseconds."""
    cuts = quantiles(seconds, n=20, method="inclusive") if len(seconds) > 1 else [seconds[0]] * 19
    return round(cuts[9] * 1000, 2), round(cuts[18] * 1000, 2)


def _share(turns: Sequence[str], evidence: Mapping[str, str]) -> float:
    return len(evidence.keys() & set(turns)) / len(evidence)


def _within(answer: Sequence[Found], budget: int) -> list[Found]:
    kept: list[Found] = []
    for found in answer:
        budget -= found.tokens
        if budget < 0:
            break
        kept.append(found)
    return kept
