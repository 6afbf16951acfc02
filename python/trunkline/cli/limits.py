"""The options that name limits, the same for keys, teams and users, and how limits are shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from trunkline.client.limits import Limits, Used

Model = Annotated[list[str] | None, typer.Option(help="A model that may be asked for; again for more.")]
Budget = Annotated[float | None, typer.Option(help="What calls may cost a period, in US dollars.")]
Period = Annotated[
    str | None,
    typer.Option(help="When the budget begins anew (UTC): total, day, week, month, or a number of seconds."),
]
Rpm = Annotated[int | None, typer.Option(help="Requests a minute.")]
Tpm = Annotated[int | None, typer.Option(help="Tokens a minute, input and output.")]
Parallel = Annotated[int | None, typer.Option(help="Calls under way at once.")]
NoLimit = Annotated[
    list[str] | None,
    typer.Option("--no-limit", help="A limit to take away: models, budget_usd, rpm, tpm or parallel; again for more."),
]


def given(
    *,
    models: list[str] | None,
    budget_usd: float | None,
    period: str | None,
    rpm: int | None,
    tpm: int | None,
    parallel: int | None,
) -> dict[str, Any]:
    """Return the limits that were named."""
    named = {
        "models": models or None,
        "budget_usd": budget_usd,
        "budget_period": int(period) if period and period.isdecimal() else period,
        "rpm": rpm,
        "tpm": tpm,
        "parallel": parallel,
    }
    return {name: value for name, value in named.items() if value is not None}


def told(limits: Limits) -> str:
    """Return limits in a few words: `$50.00 a month, 60 rpm`."""
    words = []
    if limits.budget_usd is not None:
        period = limits.budget_period
        each = f" each {period} s" if isinstance(period, int) else "" if period == "total" else f" a {period}"
        words.append(f"${limits.budget_usd:.2f}{each}")
    words += [f"{getattr(limits, name)} {name}" for name in ("rpm", "tpm") if getattr(limits, name) is not None]
    if limits.parallel is not None:
        words.append(f"{limits.parallel} at once")
    if limits.models is not None:
        words.append("models " + " ".join(limits.models))
    return ", ".join(words) or "none"


def spent(used: Used) -> str:
    """Return what was spent: in the budget's period where there is a budget, else in all."""
    return f"${used.period_spent_usd if used.budget_usd is not None else used.spent_usd:.6f}"
