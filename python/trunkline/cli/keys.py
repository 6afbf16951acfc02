from __future__ import annotations

from typing import Annotated

import typer

from trunkline.cli import limits
from trunkline.cli.output import AsJson, print_json, print_table

app = typer.Typer(help="API keys of the tenant.", no_args_is_help=True)


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    *,
    scope: Annotated[
        list[str] | None,
        typer.Option(help="inference, memory, manage, passthrough or operator; again for more. Default: inference."),
    ] = None,
    agent: Annotated[str | None, typer.Option(help="The only agent (name or id) that the key may act for.")] = None,
    model: limits.Model = None,
    budget_usd: limits.Budget = None,
    period: limits.Period = None,
    rpm: limits.Rpm = None,
    tpm: limits.Tpm = None,
    parallel: limits.Parallel = None,
    team: Annotated[str | None, typer.Option(help="The team (name or id) whose limits it shares.")] = None,
    user: Annotated[str | None, typer.Option(help="The only end user that the key speaks for.")] = None,
    store_bodies: Annotated[
        bool | None,
        typer.Option(
            help="Store the requests and answers of its calls, or never; else as `record.bodies` says. Where that is "
            "none, nothing is stored.",
            show_default=False,
        ),
    ] = None,
    store: Annotated[
        list[str] | None,
        typer.Option(
            help="The only memory that it reaches: memstore_…, or a scope (org, agent, user, session) for what agents "
            "keep of it; with `:read_write` behind it to write too. Again for more."
        ),
    ] = None,
    tool: Annotated[
        list[str] | None, typer.Option(help="The only tool that is carried out for it; again for more.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key. Its text is shown this once."""
    from trunkline.client import Trunkline

    with Trunkline() as client:
        key = client.keys.create(
            name,
            scopes=scope or ["inference"],
            agent_id=agent,
            team_id=team,
            user_id=user,
            store_bodies=store_bodies,
            stores=None if store is None else [_grant(one) for one in store],
            tools=tool,
            **limits.given(models=model, budget_usd=budget_usd, period=period, rpm=rpm, tpm=tpm, parallel=parallel),
        )
    if as_json:
        print_json(key.to_json())
        return
    print(key.key)
    typer.echo(f"Key {name!r} ({key.id}), scopes {', '.join(key.scopes)}: keep it, it is not shown again.", err=True)


def _grant(text: str) -> dict[str, str]:
    what, _, access = text.partition(":")
    if access not in ("", "read_only", "read_write"):
        raise typer.BadParameter(f"{text!r}: behind the `:` stands read_only or read_write.")
    named = "memory_store_id" if what.startswith("memstore_") else "scope"
    return {named: what, "access": access or "read_only"}


@app.command("list")
def list_keys(*, as_json: AsJson = False) -> None:
    """List the keys, without their text."""
    from trunkline.client import Trunkline

    with Trunkline() as client:
        keys = client.keys.list()
    if as_json:
        print_json([key.to_json() for key in keys])
        return
    rows = [
        (
            key.name,
            f"…{key.hint}",
            ",".join(key.scopes),
            key.agent_id or "",
            "revoked" if key.revoked_at else "",
            key.id,
        )
        for key in keys
    ]
    print_table(("NAME", "KEY", "SCOPES", "AGENT", "STATE", "ID"), rows, empty="No keys.")


@app.command("revoke")
def revoke(key: Annotated[str, typer.Argument(help="The key's id (key_…).")], *, as_json: AsJson = False) -> None:
    """End a key for good."""
    from trunkline.client import Trunkline

    with Trunkline() as client:
        client.keys.revoke(key)
    if as_json:
        print_json({"id": key, "revoked": True})
    else:
        print(f"{key}: revoked")
