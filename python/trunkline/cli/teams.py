from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from trunkline.cli import limits
from trunkline.cli.output import AsJson, print_json, print_table

if TYPE_CHECKING:
    from trunkline.client.limits import Team

app = typer.Typer(help="Teams: keys that share limits.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="TEAM", help="The team's name or id (team_…).")]


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="The team's name.")],
    *,
    model: limits.Model = None,
    budget_usd: limits.Budget = None,
    period: limits.Period = None,
    rpm: limits.Rpm = None,
    tpm: limits.Tpm = None,
    parallel: limits.Parallel = None,
    as_json: AsJson = False,
) -> None:
    """Make a team; `trunkline keys create --team NAME` makes keys that share its limits."""
    from trunkline.client import Trunkline

    with Trunkline() as client:
        team = client.teams.create(
            name,
            **limits.given(models=model, budget_usd=budget_usd, period=period, rpm=rpm, tpm=tpm, parallel=parallel),
        )
    _show(team, as_json=as_json)


@app.command("list")
def list_teams(*, as_json: AsJson = False) -> None:
    """List the teams in use, with what each has spent."""
    from trunkline.client import Trunkline

    with Trunkline() as client:
        teams = list(client.teams.list())
    if as_json:
        print_json([team.to_json() for team in teams])
        return
    rows = [(team.name, limits.told(team), limits.spent(team), team.requests, team.id) for team in teams]
    print_table(("NAME", "LIMITS", "SPENT", "REQUESTS", "ID"), rows, empty="No teams.")


@app.command("show")
def show(team: Name, *, as_json: AsJson = False) -> None:
    """Show a team's limits and what it has spent."""
    from trunkline.client import Trunkline

    with Trunkline() as client:
        _show(client.teams.get(team), as_json=as_json)


@app.command("update")
def update(
    team: Name,
    *,
    name: Annotated[str | None, typer.Option(help="Its new name.")] = None,
    model: limits.Model = None,
    budget_usd: limits.Budget = None,
    period: limits.Period = None,
    rpm: limits.Rpm = None,
    tpm: limits.Tpm = None,
    parallel: limits.Parallel = None,
    no_limit: limits.NoLimit = None,
    as_json: AsJson = False,
) -> None:
    """Change a team's name or limits; what is not named stays. Calls see it at once."""
    from trunkline.client import Trunkline

    changes = limits.given(models=model, budget_usd=budget_usd, period=period, rpm=rpm, tpm=tpm, parallel=parallel)
    changes |= dict.fromkeys(no_limit or ())
    if name is not None:
        changes["name"] = name
    with Trunkline() as client:
        _show(client.teams.update(team, **changes), as_json=as_json)


@app.command("archive")
def archive(team: Name, *, as_json: AsJson = False) -> None:
    """End a team and revoke all its keys, for good. Its name is free again."""
    from trunkline.client import Trunkline

    with Trunkline() as client:
        ended = client.teams.archive(team)
    if as_json:
        print_json(ended.to_json())
    else:
        print(f"{ended.name} ({ended.id}): archived, its keys are revoked")


def _show(team: Team, *, as_json: bool) -> None:
    if as_json:
        print_json(team.to_json())
        return
    print(f"{team.name} ({team.id})")
    print(f"limits: {limits.told(team)}")
    if team.users is not None:
        print(f"limits of each user: {limits.told(team.users)}")
    print(f"spent: {limits.spent(team)} in {team.requests} requests")
    if team.archived_at is not None:
        print(f"archived: {team.archived_at.isoformat()}")
