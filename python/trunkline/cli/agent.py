from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trunkline.cli.output import AsJson, print_json, print_table
from trunkline.errors import SetupError

if TYPE_CHECKING:
    from trunkline.client import Change

app = typer.Typer(help="The agents of the tenant.", no_args_is_help=True)


@app.command("apply")
def apply(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="YAML files, `agent:` in each document; folders, for all in them; `-` is standard input."),
    ] = None,
    *,
    more: Annotated[list[Path] | None, typer.Option("--file", "-f", help="The same, as an option.")] = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Archive the agents that `apply` made and the files do not name.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make agents be as the files say: show what that changes, ask on a terminal, and do it.

    Applied again, it changes nothing. What is to be archived is so only with `--yes`, or a yes on a terminal.
    """
    from trunkline.client import Trunkline, read_agents

    given = [*(files or []), *(more or [])]
    if not given:
        raise typer.BadParameter("name a YAML file, such as `trunkline agent apply -f agent.yaml`.")
    definitions = [definition for file in _files(given) for definition in read_agents(_read(file), str(file))]
    with Trunkline() as client:
        plan = client.agents.apply(definitions, prune=prune, dry_run=True)
        if dry_run:
            _show(plan, as_json=as_json)
            return
        terminal = sys.stdin.isatty() and not as_json
        if any(change.action == "archive" for change in plan) and not yes and not terminal:
            names = ", ".join(change.name for change in plan if change.action == "archive")
            raise SetupError(f"This would archive {names}; say so with --yes, or look first with --dry-run.")
        if terminal and not yes and any(change.action != "unchanged" for change in plan):
            _show(plan)
            typer.confirm("Do it?", abort=True)
        done = client.agents.apply(definitions, prune=prune)
    _show(done, as_json=as_json, done=True)


_DONE = {"create": "created", "update": "updated", "archive": "archived", "unchanged": "unchanged"}


def _show(changes: Sequence[Change], *, as_json: bool = False, done: bool = False) -> None:
    if as_json:
        print_json({"changes": [change.to_json() for change in changes]})
        return
    for change in changes:
        agent = change.agent
        about = f", version {agent.version} ({agent.id})" if done and agent is not None else ""
        where = f": {', '.join(change.fields)}" if change.fields else ""
        print(f"{change.name}: {_DONE[change.action] if done else change.action}{about}{where}")


def _files(given: Sequence[Path]) -> Iterator[Path]:
    """Yield the files, those of a folder and the folders in it in the order of their names."""
    for path in given:
        if not path.is_dir():
            yield path
            continue
        found = sorted(file for file in path.rglob("*") if file.suffix in (".yaml", ".yml"))
        if not found:
            raise SetupError(f"{path}: has no .yaml file.")
        yield from found


@app.command("list")
def list_agents(*, as_json: AsJson = False) -> None:
    """List the agents."""
    from trunkline.client import Trunkline

    with Trunkline() as client:
        agents = client.agents.list()
    if as_json:
        print_json([agent.to_json() for agent in agents])
        return
    print_table(
        ("NAME", "VERSION", "MODEL", "ID", "UPDATED"),
        [(a.name, a.version, a.model_name or "(default)", a.id, f"{a.updated_at:%Y-%m-%d %H:%M}") for a in agents],
        empty="No agents yet: `trunkline agent apply FILE` makes one.",
    )


def _read(file: Path) -> str:
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except OSError as error:
        raise SetupError(f"{file}: cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise SetupError(f"{file}: is not UTF-8 text.") from error
