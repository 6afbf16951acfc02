from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from trunkline.cli.output import AsJson, print_json
from trunkline.errors import SetupError


def register(app: typer.Typer) -> None:
    """Add `trunkline migrate`."""
    app.command("migrate")(migrate)


def migrate(
    *,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="trunkline.yaml.")] = None,
    as_json: AsJson = False,
) -> None:
    """Bring the database of DATABASE_URL, or the home's own, to this version; `trunkline up` does this by itself.

    The login of DATABASE_URL must be allowed to create in the database and to make roles.
    """
    from trunkline.processes.addresses import running
    from trunkline.processes.postgres import Postgres
    from trunkline.settings import load
    from trunkline.store.migrate import migrate as bring_up

    settings = load(config, os.environ)
    try:
        addresses = running(settings)
        server = None
    except SetupError:
        server = Postgres(settings)
        addresses = server.start()
    try:
        applied = bring_up(addresses.owner, embedded=addresses.embedded)
    finally:
        if server is not None:
            server.stop()
    if as_json:
        print_json({"applied": applied})
    else:
        print("\n".join(f"applied {step}" for step in applied) or "nothing to do: the database is up to date")
