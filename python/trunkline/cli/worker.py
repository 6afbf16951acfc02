from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from trunkline.cli.output import AsJson


def register(app: typer.Typer) -> None:
    """Add `trunkline worker`."""
    app.command("worker")(worker)


def worker(
    *,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="trunkline.yaml.")] = None,
    base_url: Annotated[
        str | None,
        typer.Option(envvar="TRUNKLINE_BASE_URL", help="The gateway that model calls go through; default: `listen`."),
    ] = None,
    tools: Annotated[
        list[str] | None,
        typer.Option(
            help="A Python module with `@trunkline.tool` functions, beside those of `tools.modules`; repeatable."
        ),
    ] = None,
    as_json: AsJson = False,  # noqa: ARG001 (for errors)
) -> None:
    """Run a worker, which carries out agents' turns, on its own.

    Its database is that of DATABASE_URL, or of a `trunkline up` on this machine.
    """
    from trunkline.processes.addresses import running
    from trunkline.processes.ports import base_url as url_of
    from trunkline.processes.vault_key import vault_keys
    from trunkline.processes.worker import serve
    from trunkline.settings import load

    settings = load(config, os.environ)
    gateway = base_url or url_of(settings.listen)
    modules = (*settings.tools.modules, *(name for name in tools or () if name not in settings.tools.modules))
    serve(
        running(settings).control,
        gateway,
        embedder=settings.memory.embedder,
        tools=settings.tools.model_copy(update={"modules": modules}),
        webhooks=settings.webhooks,
        vault_keys=vault_keys(settings),
        audit_days=settings.audit.keep_days,
        home=settings.home,
    )
