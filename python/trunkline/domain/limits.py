"""Limits of keys, teams and end users: what each may use, and what it has used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from trunkline.domain.times import to_wire

Period = Literal["total", "day", "week", "month"] | Annotated[int, Field(gt=0, lt=10**9)]
"""When a budget begins anew, in UTC: never, at midnight, on Monday, on the first; every N seconds, from 1970 on."""

Models = Annotated[tuple[Annotated[str, Field(min_length=1, max_length=256)], ...] | None, Field(min_length=1)]
"""Names of models, or patterns with one `*`; None: any."""

UserId = Annotated[str, Field(min_length=1, max_length=256)]


class Amounts(BaseModel):
    """How much a subject may use; what is left out is not limited."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    budget_usd: Annotated[Decimal | None, Field(ge=0, max_digits=18, decimal_places=9)] = None
    budget_period: Period = "total"
    rpm: Annotated[int | None, Field(gt=0, lt=2**31)] = None
    """Requests a minute."""
    tpm: Annotated[int | None, Field(gt=0, lt=2**53)] = None
    """Tokens a minute, input and output."""
    parallel: Annotated[int | None, Field(gt=0, lt=2**31)] = None
    """Calls under way at once."""


class LimitsRequest(Amounts):
    """Limits of a subject as a client gives them."""

    models: Models = None
    expires_at: AwareDatetime | None = None

    def limits(self) -> Limits:
        """Return what was asked for, as it is kept."""
        return Limits(**{name: getattr(self, name) for name in LimitsRequest.model_fields})


@dataclass(frozen=True, slots=True)
class Limits:
    """What a subject may use; None: not limited."""

    models: tuple[str, ...] | None = None
    expires_at: datetime | None = None
    budget_usd: Decimal | None = None
    budget_period: str | int = "total"
    rpm: int | None = None
    tpm: int | None = None
    parallel: int | None = None

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Limits:
        """Return the limits in a row of the store."""
        period = row["budget_period"]
        return cls(
            models=None if row["models"] is None else tuple(row["models"]),
            expires_at=row["expires_at"],
            budget_usd=row["budget_usd"],
            budget_period=int(period) if period.isdecimal() else period,
            rpm=row["rpm"],
            tpm=row["tpm"],
            parallel=row["parallel"],
        )

    @classmethod
    def from_json(cls, found: Mapping[str, Any] | None) -> Limits | None:
        """Return the limits that `trunkline.limits_json` wrote."""
        if found is None:
            return None
        ends, budget = found["expires_at"], found["budget_usd"]
        return cls.from_row(
            {
                **found,
                "expires_at": None if ends is None else datetime.fromtimestamp(ends, UTC),
                "budget_usd": None if budget is None else Decimal(str(budget)),
            }
        )

    def amounts_to_wire(self) -> dict[str, Any]:
        """Return the amounts as the API shows them; money as a number of US dollars."""
        return {
            "budget_usd": None if self.budget_usd is None else float(self.budget_usd),
            "budget_period": self.budget_period,
            "rpm": self.rpm,
            "tpm": self.tpm,
            "parallel": self.parallel,
        }

    def to_wire(self) -> dict[str, Any]:
        """Return all of them as the API shows them."""
        models = None if self.models is None else list(self.models)
        return {"models": models, "expires_at": to_wire(self.expires_at), **self.amounts_to_wire()}


UNLIMITED: Final = Limits()


@dataclass(frozen=True, slots=True)
class Used:
    """What a subject has used: since it was made, and in the budget's current period."""

    spent_usd: Decimal = Decimal(0)
    requests: int = 0
    period_spent_usd: Decimal = Decimal(0)
    period_starts_at: datetime | None = None
    period_ends_at: datetime | None = None

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Used:
        """Return what a row of the store says of it."""
        names = ("spent_usd", "requests", "period_spent_usd", "period_starts_at", "period_ends_at")
        return cls(**{name: row[name] for name in names})

    def to_wire(self) -> dict[str, Any]:
        """Return it as the API shows it; money as a number of US dollars."""
        return {
            "spent_usd": float(self.spent_usd),
            "requests": self.requests,
            "period_spent_usd": float(self.period_spent_usd),
            "period_starts_at": to_wire(self.period_starts_at),
            "period_ends_at": to_wire(self.period_ends_at),
        }


UNUSED: Final = Used()


class UserLimitsRequest(LimitsRequest):
    """The limits that an end user is to have, all of them: what is left out is not limited."""

    user_id: UserId


@dataclass(frozen=True, slots=True)
class UserLimits:
    """An end user with limits of their own."""

    user_id: str
    limits: Limits
    used: Used
    updated_at: datetime

    def to_wire(self) -> dict[str, Any]:
        """Return them as the API shows them."""
        own = {"type": "user_limits", "user_id": self.user_id, **self.limits.to_wire()}
        return {**own, **self.used.to_wire(), "updated_at": to_wire(self.updated_at)}
