from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from trunkline.cli.output import AsJson, print_json, print_table
from trunkline.errors import SetupError

app = typer.Typer(help="The agents of the tenant.", no_args_is_help=True)


@app.command("apply")
def apply(
    files: Annotated[
        list[Path] | None, typer.Argument(help="YAML files, `agent:` in each document; `-` is standard input.")
    ] = None,
    *,
    more: Annotated[list[Path] | None, typer.Option("--file", "-f", help="The same, as an option.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make agents be as the files say: create them, or write a new version of what differs."""
    from trunkline.client import Trunkline, read_agents

    given = [*(files or []), *(more or [])]
    if not given:
        raise typer.BadParameter("name a YAML file, such as `trunkline agent apply -f agent.yaml`.")
    definitions = [definition for file in given for definition in read_agents(_read(file), str(file))]
    with Trunkline() as client:
        for definition in definitions:
            agent = client.agents.apply(definition)
            if as_json:
                print_json(agent.to_json())
            else:
                print(f"{agent.name}: {agent.change}, version {agent.version} ({agent.id})")


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
