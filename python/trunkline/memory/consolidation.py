"""Whether, when and within what an agent's conversations are consolidated, read from its definition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from trunkline.errors import InvalidRequest
from trunkline.memory.rules import seconds
from trunkline.memory.values import shown

MAX_TURNS: Final = 1_000
MAX_RUN_TOKENS: Final = 200_000
MIN_RUN_TOKENS: Final = 500
MAX_DAILY_TOKENS: Final = 1_000_000_000

_KEYS: Final = ("model", "idle", "turns", "review", "run_tokens", "daily_tokens")


@dataclass(frozen=True, slots=True)
class Consolidation:
    """A model reads what is new in a session and proposes operations on blocks.

    It does once the session was idle for `idle_seconds`, or had so many `turns`. `run_tokens`: of the conversation in
    one run; `daily_tokens`: of all calls for the agent in a day (UTC), prompts and answers. With `review` nothing is
    written before somebody approves it.
    """

    model: str
    idle_seconds: int = 600
    turns: int = 20
    review: bool = False
    run_tokens: int = 8_000
    daily_tokens: int = 200_000

    def to_json(self) -> dict[str, Any]:
        """Return it as it is stored beside the version."""
        return {
            "model": self.model,
            "idle_seconds": self.idle_seconds,
            "turns": self.turns,
            "review": self.review,
            "run_tokens": self.run_tokens,
            "daily_tokens": self.daily_tokens,
        }


def parse_consolidation(given: Any, where: str) -> Consolidation | None:
    """Read `{model: …, idle: 10m, …}`; None is off. Raises InvalidRequest with the place."""
    if given is None:
        return None
    if not isinstance(given, dict):
        raise _invalid(where, f"must be a mapping with `model`, got {shown(given)}")
    for key in given:
        if key not in _KEYS:
            raise _invalid(f"{where}.{key}", f"is not known; allowed: {', '.join(_KEYS)}")
    model = given.get("model")
    if not isinstance(model, str) or not 1 <= len(model) <= 256:
        raise _invalid(f"{where}.model", f"must be the name of a configured model, got {shown(model)}")
    review = given.get("review", False)
    if not isinstance(review, bool):
        raise _invalid(f"{where}.review", f"must be true or false, got {shown(review)}")
    return Consolidation(
        model,
        seconds(given.get("idle", 600), f"{where}.idle"),
        _within(given.get("turns", 20), 1, MAX_TURNS, f"{where}.turns"),
        review,
        _within(given.get("run_tokens", 8_000), MIN_RUN_TOKENS, MAX_RUN_TOKENS, f"{where}.run_tokens"),
        _within(given.get("daily_tokens", 200_000), 1, MAX_DAILY_TOKENS, f"{where}.daily_tokens"),
    )


def _within(value: Any, least: int, most: int, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise _invalid(where, f"must be a whole number from {least} to {most}, got {shown(value)}")
    return value


def _invalid(where: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"{where}: {why}.", param=where)
