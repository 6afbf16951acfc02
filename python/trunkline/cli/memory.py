from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from trunkline.cli.output import AsJson, print_json, print_table
from trunkline.errors import InvalidRequest

app = typer.Typer(help="What an agent knows: its blocks and their history.", no_args_is_help=True)

Agent = Annotated[str, typer.Argument(help="The agent's name or id.")]
User = Annotated[str | None, typer.Option("--user", "-u", help="Whose memory, for blocks of scope user.")]
Session = Annotated[str | None, typer.Option("--session", "-s", help="Which session's, for blocks of scope session.")]


@app.command("show")
def show(agent: Agent, *, user: User = None, session: Session = None, as_json: AsJson = False) -> None:
    """Show the blocks as a model call reads them."""
    from trunkline.client import Trunkline

    with Trunkline() as client:
        blocks = client.memory.get(agent, user_id=user, session_id=session)
    if as_json:
        print_json([block.to_json() for block in blocks])
        return
    for block in blocks:
        print(f"{block.block}  (scope {block.scope}, version {block.version or 0})")
        print("".join(f"  {line}\n" for line in block.rendered.splitlines()))
    if not blocks:
        print(f"{agent} has no blocks: declare some under `memory.blocks`.")


@app.command("set")
def set_field(
    agent: Agent,
    field: Annotated[str, typer.Argument(metavar="BLOCK.FIELD", help="For example customer.name.")],
    value: Annotated[str, typer.Argument(help="JSON, or text as it stands.")],
    *,
    op: Annotated[str, typer.Option(help="set, append, remove or merge.")] = "set",
    expect_sha256: Annotated[str | None, typer.Option(help="Refuse if the block's content has another hash.")] = None,
    user: User = None,
    session: Session = None,
    as_json: AsJson = False,
) -> None:
    """Write a field of a block."""
    from trunkline.client import Trunkline

    block, dot, name = field.partition(".")
    if not dot or not block or not name:
        raise InvalidRequest(f"{field!r}: expected BLOCK.FIELD, for example customer.name.")
    operation: dict[str, Any] = {"op": op, "field": name, "value": _value(value)}
    if expect_sha256 is not None:
        operation["expect_sha256"] = expect_sha256
    with Trunkline() as client:
        after = client.memory.operations(agent, block, [operation], user_id=user, session_id=session)
    if as_json:
        print_json(after.to_json())
    else:
        print(after.rendered)


@app.command("history")
def history(
    agent: Agent,
    block: Annotated[str, typer.Argument(help="The block's name.")],
    *,
    user: User = None,
    session: Session = None,
    as_json: AsJson = False,
) -> None:
    """Show who wrote a block, when and how, newest first."""
    from trunkline.client import Trunkline

    with Trunkline() as client:
        versions = client.memory.history(agent, block, user_id=user, session_id=session)
    if as_json:
        print_json([version.to_json() for version in versions])
        return
    rows = [
        (
            v.version,
            f"{v.created_at:%Y-%m-%d %H:%M:%S}",
            f"{v.actor.type} {v.actor.id}",
            describe(v.operations),
            v.event_id,
        )
        for v in versions
    ]
    print_table(("VERSION", "WHEN", "WHO", "OPERATIONS", "EVENT"), rows, empty=f"Nobody has written {block} yet.")


def describe(operations: tuple[dict[str, Any], ...] | None) -> str:
    """Return block operations as a person reads them: `set name "Ada"; append recent_purchases "kettle"`."""
    if operations is None:
        return "whole content"
    return "; ".join(
        " ".join([op["op"], op["field"], *([json.dumps(op["value"], ensure_ascii=False)] if "value" in op else [])])
        for op in operations
    )


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
