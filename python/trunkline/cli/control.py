from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from trunkline.cli.output import AsJson, print_json


def register(app: typer.Typer) -> None:
    """Add `trunkline control`."""
    app.command("control")(control)


def control(
    *,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="trunkline.yaml.")] = None,
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where to listen; gateways relay to it.")] = (
        "127.0.0.1:4001"
    ),
    gateway_url: Annotated[
        str | None,
        typer.Option(
            envvar="TRUNKLINE_BASE_URL", help="The gateway that queries are embedded through; default: `listen`."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a control plane on its own.

    Its database is that of DATABASE_URL, or of a `trunkline up` on this machine.
    """
    from trunkline.api.app import ControlSettings
    from trunkline.processes import embedding, reranking
    from trunkline.processes.addresses import running
    from trunkline.processes.control import serve
    from trunkline.processes.ports import base_url, listener
    from trunkline.processes.vault_key import vault_keys
    from trunkline.settings import load

    settings = load(config, os.environ)
    embedder_key = settings.embedder_key()
    control = ControlSettings(
        running(settings).control,
        settings.limits.max_body_bytes,
        vault_keys=vault_keys(settings),
        mcp_allow=settings.tools.mcp.allow,
    )
    with listener(listen) as socket:
        host = listen.rpartition(":")[0]
        url = base_url(f"{host}:{socket.getsockname()[1]}")
        if as_json:
            print_json({"base_url": url})
        else:
            print(f"control plane listening on {url}", flush=True)
        gateway = gateway_url or base_url(settings.listen)
        memory, ca_file = settings.memory, settings.ca_file
        serve(
            control,
            socket,
            embedding=lambda: embedding.prepare(memory.embedder, gateway, embedder_key),
            reranking=lambda: reranking.prepare(memory.reranker, settings.reranker_key, ca_file),
        )
