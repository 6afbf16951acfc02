"""What a session may use: money, model calls, tokens and time; and what it has used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

_NANO_PER_CENT: Final = 10_000_000


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MonetaryAmount(_Frozen):
    """An amount in cents, as a text of digits: "2500" are 25 US dollars."""

    amount: Annotated[str, Field(pattern=r"^[1-9][0-9]{0,10}$")]
    currency: Literal["USD"]


class Budget(_Frozen):
    """What a session may cost, by list prices: at that, no more model calls are made."""

    type: Literal["limit"]
    max_list_cost: MonetaryAmount


class Limits(_Frozen):
    """What else a session may use; what is absent has no bound.

    `max_turns` are answers of the model, `max_tokens` those of prompts and answers in all, `max_active_seconds` the
    time in which the session runs.
    """

    max_turns: Annotated[int | None, Field(ge=1, lt=2**31)] = None
    max_tokens: Annotated[int | None, Field(ge=1, lt=2**53)] = None
    max_active_seconds: Annotated[int | None, Field(ge=1, lt=2**31)] = None

    def given(self) -> dict[str, int]:
        """Return the bounds that there are."""
        return self.model_dump(exclude_none=True, include=set(Limits.model_fields))


class AgentLimits(Limits):
    """What each session of an agent may use, unless the session says otherwise."""

    max_list_cost: MonetaryAmount | None = None


@dataclass(frozen=True, slots=True)
class Used:
    """What the runtime has used for a session. `cost_nano` is in billionths of a US dollar."""

    turns: int
    tokens: int
    cost_nano: int
    unpriced: bool
    """Whether a call was answered by a model that has no price: what the session cost is not known then."""
    active_us: int
    """Microseconds in which it ran, up to when it last began to."""
    running_since: datetime | None

    @property
    def cents(self) -> int:
        """What it cost, to the nearest cent."""
        return (self.cost_nano + _NANO_PER_CENT // 2) // _NANO_PER_CENT

    def active_seconds(self, at: datetime) -> float:
        """Return how long it has run by now."""
        running = 0.0 if self.running_since is None else max(0.0, (at - self.running_since).total_seconds())
        return round(self.active_us / 1e6 + running, 3)

    def reached(self, budget: Mapping[str, Any] | None, limits: Mapping[str, Any] | None, at: datetime) -> str | None:
        """Return the name of a limit that is reached; None: the session may go on."""
        if budget is not None and (self.unpriced or not self.below(budget)):
            return "max_list_cost"
        used = {"max_turns": self.turns, "max_tokens": self.tokens, "max_active_seconds": self.active_seconds(at)}
        return next((name for name, bound in (limits or {}).items() if used[name] >= bound), None)

    def below(self, budget: Mapping[str, Any]) -> bool:
        """Tell whether what it cost is less than a budget."""
        return self.cost_nano < int(budget["max_list_cost"]["amount"]) * _NANO_PER_CENT

    def to_wire(self, at: datetime) -> dict[str, Any]:
        """Return what the wire has beside counts of tokens, and our `turns`.

        Where a price is not known, or calls were made by others than the runtime, there is no `list_cost`.
        """
        told: dict[str, Any] = {"active_seconds": self.active_seconds(at), "turns": self.turns}
        if not self.unpriced and (self.turns or not self.tokens):
            told["list_cost"] = {"amount": str(self.cents), "currency": "USD"}
        return told
