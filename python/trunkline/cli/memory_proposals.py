"""`trunkline memory proposals`, `approve` and `reject`: what consolidation would write."""

from __future__ import annotations

from typing import Annotated

import typer

from trunkline.cli.output import AsJson, print_json, print_table

Proposal = Annotated[str, typer.Argument(help="The proposal's id, mprop_….")]


def proposals(
    *,
    agent: Annotated[str | None, typer.Option(help="Of this agent, by its name or id.")] = None,
    user: Annotated[str | None, typer.Option("--user", "-u", help="For the memory of this user.")] = None,
    status: Annotated[str, typer.Option(help="pending, applied, refused, rejected or all.")] = "pending",
    as_json: AsJson = False,
) -> None:
    """Show what consolidation proposes: by default, what waits for review."""
    from trunkline.cli.memory import describe
    from trunkline.client import Trunkline

    with Trunkline() as client:
        agent_id = None if agent is None else client.agents.get(agent).id
        wanted = None if status == "all" else status
        found = list(client.memory_proposals.list(status=wanted, agent_id=agent_id, user_id=user))
    if as_json:
        print_json([one.to_json() for one in found])
        return
    rows = [
        (one.id, one.status, one.user_id, one.block, describe(one.operations), one.error or one.reason) for one in found
    ]
    print_table(("PROPOSAL", "STATUS", "USER", "BLOCK", "OPERATIONS", "WHY"), rows, empty="There are no proposals.")


def approve(proposal: Proposal, *, as_json: AsJson = False) -> None:
    """Write what is proposed."""
    from trunkline.client import Trunkline

    with Trunkline() as client:
        found = client.memory_proposals.approve(proposal)
    if as_json:
        print_json(found.to_json())
    else:
        print(f"{found.block}: written as {found.version_id or 'it says already'}.")


def reject(proposal: Proposal, *, as_json: AsJson = False) -> None:
    """Let a proposal be: nothing is written."""
    from trunkline.client import Trunkline

    with Trunkline() as client:
        found = client.memory_proposals.reject(proposal)
    if as_json:
        print_json(found.to_json())
    else:
        print(f"{found.id}: rejected.")
