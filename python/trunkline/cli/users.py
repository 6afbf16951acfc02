from __future__ import annotations

from typing import Annotated

import typer

from trunkline.cli import limits
from trunkline.cli.output import AsJson, print_json, print_table

app = typer.Typer(help="End users, the people behind a key.", no_args_is_help=True)
limits_app = typer.Typer(help="Limits of end users.", no_args_is_help=True)
app.add_typer(limits_app, name="limits")

User = Annotated[str, typer.Argument(metavar="USER", help="The user's id, as calls name it.")]


@limits_app.command("set")
def set_limits(
    user: User,
    *,
    model: limits.Model = None,
    budget_usd: limits.Budget = None,
    period: limits.Period = None,
    rpm: limits.Rpm = None,
    tpm: limits.Tpm = None,
    parallel: limits.Parallel = None,
    as_json: AsJson = False,
) -> None:
    """Set all limits of a user: those not named are not limited, whatever the defaults of keys and teams are."""
    from trunkline.client import Trunkline

    with Trunkline() as client:
        found = client.users.set_limits(
            user,
            **limits.given(models=model, budget_usd=budget_usd, period=period, rpm=rpm, tpm=tpm, parallel=parallel),
        )
    if as_json:
        print_json(found.to_json())
    else:
        print(f"{user}: {limits.told(found)}")


@limits_app.command("list")
def list_limits(
    user: Annotated[str | None, typer.Argument(metavar="[USER]", help="Only this user.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """List the users with limits of their own, and what each has spent under them."""
    from trunkline.client import Trunkline

    with Trunkline() as client:
        users = list(client.users.limits(user))
    if as_json:
        print_json([found.to_json() for found in users])
        return
    rows = [(found.user_id, limits.told(found), limits.spent(found), found.requests) for found in users]
    print_table(("USER", "LIMITS", "SPENT", "REQUESTS"), rows, empty="No users with limits of their own.")


@limits_app.command("remove")
def remove(user: User, *, as_json: AsJson = False) -> None:
    """Take a user's own limits away: the defaults of keys and teams hold again."""
    from trunkline.client import Trunkline

    with Trunkline() as client:
        client.users.remove_limits(user)
    if as_json:
        print_json({"user_id": user, "removed": True})
    else:
        print(f"{user}: no limits of its own any more")
