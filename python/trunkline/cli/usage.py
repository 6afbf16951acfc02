from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from trunkline.cli.output import AsJson, print_json


def register(app: typer.Typer) -> None:
    """Add `trunkline usage`."""
    app.command("usage")(usage)


def usage(
    *,
    agent: Annotated[str | None, typer.Option(help="Only of this agent (name or id).")] = None,
    key: Annotated[str | None, typer.Option(help="Only of this key (key_…).")] = None,
    session: Annotated[str | None, typer.Option(help="Only of this session (sesn_…).")] = None,
    since: Annotated[datetime | None, typer.Option(help="From this time on.")] = None,
    until: Annotated[datetime | None, typer.Option(help="Up to this time.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what model calls used: requests, tokens, cost. Times are of this machine's time zone."""
    from trunkline.client import Trunkline

    with Trunkline() as client:
        used = client.usage(
            key_id=key,
            agent_id=agent,
            session_id=session,
            since=since.astimezone() if since else None,
            until=until.astimezone() if until else None,
        )
    if as_json:
        print_json(used.to_json())
        return
    cost = "no price known" if used.cost_usd is None else f"${used.cost_usd:.4f}"
    print(f"requests       {used.requests}")
    print(f"input tokens   {used.input_tokens} ({used.cached_tokens} cached)")
    print(f"output tokens  {used.output_tokens}")
    print(f"cost           {cost}")
