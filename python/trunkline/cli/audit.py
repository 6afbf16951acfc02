from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from trunkline.cli.output import AsJson, print_json, print_table


def register(app: typer.Typer) -> None:
    """Add `trunkline audit`."""
    app.command("audit")(audit)


def audit(
    *,
    resource: Annotated[
        str | None, typer.Option(help="Only what was done to this: an id (agent_…, key_…), or a type such as agent.")
    ] = None,
    user: Annotated[str | None, typer.Option(help="Only what was done to the limits of this end user.")] = None,
    key: Annotated[str | None, typer.Option(help="Only what this key did (key_…).")] = None,
    since: Annotated[datetime | None, typer.Option(help="From this time on.")] = None,
    until: Annotated[datetime | None, typer.Option(help="Up to this time.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="The most entries, the newest.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Show who changed what: agents, keys, limits, vaults, environments, deployments, memory stores, erasures."""
    from trunkline.client import Trunkline

    kind = resource if resource is not None and "_" not in resource.replace("memory_store", "") else None
    with Trunkline() as client:
        entries = list(
            client.audit_log(
                resource_type=kind,
                resource_id=None if kind is not None else resource,
                user_id=user,
                key_id=key,
                since=since.astimezone() if since else None,
                until=until.astimezone() if until else None,
                limit=limit,
            )
        )
    if as_json:
        print_json([entry.to_json() for entry in entries])
        return
    rows = [
        (
            f"{entry.created_at.astimezone():%Y-%m-%d %H:%M:%S}",
            entry.action,
            entry.resource.type,
            entry.resource.name or entry.resource.id,
            ", ".join(entry.changed),
            entry.key_id,
            entry.request_id,
        )
        for entry in entries
    ]
    print_table(("TIME", "ACTION", "WHAT", "NAME", "FIELDS", "KEY", "REQUEST"), rows, empty="Nothing was changed.")
