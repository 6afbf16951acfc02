from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from trunkline.cli.output import AsJson, print_json, print_table

if TYPE_CHECKING:
    from trunkline.client.usage import Usage

_SHOWN = ("requests", "errors", "input_tokens", "output_tokens", "cached_tokens", "cost_usd")


def register(app: typer.Typer) -> None:
    """Add `trunkline usage`."""
    app.command("usage")(usage)


def usage(
    *,
    by: Annotated[str | None, typer.Option(help="A row for each: model,key,user,agent,provider,status,…")] = None,
    bucket: Annotated[str | None, typer.Option(help="A row for each minute, hour, day or month (UTC).")] = None,
    agent: Annotated[str | None, typer.Option(help="Only of this agent (name or id).")] = None,
    key: Annotated[str | None, typer.Option(help="Only of this key (key_…).")] = None,
    session: Annotated[str | None, typer.Option(help="Only of this session (sesn_…).")] = None,
    user: Annotated[str | None, typer.Option(help="Only of this end user.")] = None,
    model: Annotated[str | None, typer.Option(help="Only of this model, as it was asked for.")] = None,
    since: Annotated[datetime | None, typer.Option(help="From this time on.")] = None,
    until: Annotated[datetime | None, typer.Option(help="Up to this time.")] = None,
    sort: Annotated[
        str | None, typer.Option(help="What rows go by: cost_usd, requests, …; -NAME: largest first.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what model calls used: requests, tokens, cost. Times are of this machine's time zone."""
    from trunkline.client import Trunkline

    filters = {"key_id": key, "agent_id": agent, "session_id": session, "user_id": user, "model": model}
    since, until = since.astimezone() if since else None, until.astimezone() if until else None
    with Trunkline() as client:
        if by is None and bucket is None:
            total = client.usage(since=since, until=until, **filters)
            rows = None
        else:
            groups = tuple(filter(None, (by or "").split(",")))
            rows = list(client.usage_by(*groups, bucket=bucket, since=since, until=until, sort=sort, **filters))
    if rows is not None:
        if as_json:
            print_json([row.to_json() for row in rows])
        else:
            _table(rows)
        return
    if as_json:
        print_json(total.to_json())
        return
    print(f"requests       {total.requests}")
    print(f"input tokens   {total.input_tokens} ({total.cached_tokens} cached)")
    print(f"output tokens  {total.output_tokens}")
    print(f"cost           {_cost(total)}")


def _table(rows: list[Usage]) -> None:
    names = list(rows[0].model_extra or {}) if rows else []
    cells = []
    for row in rows:
        values = {**row.model_dump(), "cost_usd": _cost(row)}
        cells.append([values[name] for name in (*names, *_SHOWN)])
    print_table([*names, *_SHOWN], cells, empty="No calls.")


def _cost(used: Usage) -> str:
    return "no price known" if used.cost_usd is None else f"${used.cost_usd:.4f}"
