"""`trunkline demo`: the main job, played for real, with what it cost."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from typing import Annotated

import typer

from trunkline.cli.output import AsJson, print_json
from trunkline.errors import SetupError


def register(app: typer.Typer) -> None:
    """Add `trunkline demo`."""
    app.command("demo")(demo)


def demo(
    *,
    examples: Annotated[
        Path | None, typer.Option(help="The folder of support_resolver.yaml and smallest.yaml; found in a checkout.")
    ] = None,
    calls: Annotated[int, typer.Option(min=20, help="Timed calls of each kind.")] = 200,
    as_json: AsJson = False,
) -> int:
    """Show an agent that remembers across sessions, clients and a SIGKILL of everything, and what that costs.

    Runs in a throw-away home, with a scripted model and no network, and leaves nothing behind. Exit status 1 if any
    fact was lost.
    """
    for sdk in ("openai", "anthropic"):
        if importlib.util.find_spec(sdk) is None:
            raise SetupError(f"the demo talks through the {sdk} SDK, which is not installed: pip install {sdk}")
    from trunkline.cli.demo.report import Report
    from trunkline.cli.demo.story import play
    from trunkline.cli.demo.world import open_world

    report = Report(silent=as_json)
    began = time.monotonic()
    with open_world(_examples(examples), report.step) as world:
        outcome = play(world, report, calls=calls)
    seconds = time.monotonic() - began
    if as_json:
        print_json(outcome.to_json() | {"seconds_in_all": round(seconds, 2)})
    else:
        report.verdict(outcome, seconds)
    return 1 if outcome.lost else 0


def _examples(given: Path | None) -> Path:
    """Return the folder of examples: the one given, or that of the checkout one is in, or that this package is in."""
    checkout = Path(__file__).resolve().parents[4]
    for folder in [given] if given else [Path("examples"), checkout / "examples"]:
        if (folder / "support_resolver.yaml").is_file():
            return folder
    where = str(given) if given else "here"
    raise SetupError(f"there is no support_resolver.yaml {where}: run the demo in a checkout, or give --examples.")
