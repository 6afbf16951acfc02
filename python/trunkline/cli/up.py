from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trunkline.cli.output import AsJson, print_json
from trunkline.errors import SetupError

if TYPE_CHECKING:
    from trunkline.processes.supervisor import Started
    from trunkline.settings import Settings


def register(app: typer.Typer) -> None:
    """Add `trunkline up`."""
    app.command("up")(up)


def up(
    *,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="trunkline.yaml, or LiteLLM's config.yaml.")
    ] = None,
    listen: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where clients reach it; port 0 takes a free one.")
    ] = None,
    show_key: Annotated[
        bool, typer.Option("--show-key", help="Print the admin key, not only where it is kept.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the logs of all processes.")] = False,
    until_input_ends: Annotated[bool, typer.Option(hidden=True, help="Stop when standard input ends.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run everything on this machine: gateway, control plane, worker and, without DATABASE_URL, Postgres.

    State, logs and the first key are in TRUNKLINE_HOME (default ~/.trunkline). Model providers are those whose key is
    in the environment (OPENAI_API_KEY, ANTHROPIC_API_KEY, …) and those of trunkline.yaml, which is read anew when it
    changes, and on SIGHUP. Ctrl-C drains and stops all of it; a second one hurries.
    """
    from trunkline.processes.lifeline import on_loss
    from trunkline.processes.supervisor import Supervisor
    from trunkline.settings import load

    environ = dict(os.environ)
    if listen is not None:
        environ["TRUNKLINE_LISTEN"] = listen
    settings = load(config, environ)

    def ready(started: Started) -> None:
        if as_json:
            print_json(_to_json(started))
            sys.stdout.flush()
        else:
            _print(started, show_key=show_key)

    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.WARNING)
    for found in settings.unsupported:
        _notify(f"{settings.source}: `{found.key}` is not supported: {found.note}")
    if until_input_ends:  # of a program that it is embedded in, to run agents, and which may be killed
        _require_provider(settings)
        on_loss(lambda: os.kill(os.getpid(), signal.SIGTERM))
    supervisor = Supervisor(
        settings, read=lambda: load(config, environ), notify=_notify, tell_log=_tell_log if verbose else None
    )
    supervisor.run(ready)
    if not as_json:
        typer.echo("Stopped.", err=True)


def _require_provider(settings: Settings) -> None:
    from trunkline._core import known_providers
    from trunkline.provider_settings import KnownProvider

    known = [KnownProvider.model_validate(provider) for provider in json.loads(known_providers())]
    if not settings.gateway_config("", "", known, embedder_key="")["providers"]:
        raise SetupError(
            "No model provider is configured, which an agent needs: set ANTHROPIC_API_KEY, OPENAI_API_KEY or another "
            "provider's variable, or name one under `providers:` in trunkline.yaml."
        )


def _notify(line: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stderr.flush()


def _tell_log(name: str, line: str) -> None:
    sys.stderr.write(f"{name:<8}│ {line}\n")
    sys.stderr.flush()


def _to_json(started: Started) -> dict[str, object]:
    run = started.run
    return {
        "pid": run.pid,
        "base_url": run.base_url,
        "control_url": run.control_url,
        "key_file": str(started.home.key_file),
        "providers": list(started.providers),
        "processes": {name: process.pid for name, process in run.processes.items()},
        "seconds": {name: round(seconds, 4) for name, seconds in started.seconds.items()},
    }


def _print(started: Started, *, show_key: bool) -> None:
    from rich.console import Console
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    url, home = started.run.base_url, started.home
    key = (home.read_key() or "") if show_key else str(home.key_file)
    rows = [
        ("base URL", f"{url}/v1  (OpenAI clients)   {url}  (Anthropic clients)"),
        ("key" if show_key else "key file", f"{key}  (made just now)" if started.new_key else key),
        ("API docs", f"{url}/docs"),
        ("providers", ", ".join(started.providers) or "none yet"),
        ("logs", str(home.logs)),
    ]
    table = Table.grid(padding=(0, 2))
    for name, value in rows:
        table.add_row(Text(name, style="dim"), Text(value, overflow="fold"))
    ready = max(started.seconds.values())
    console = Console()
    console.print(Panel(table, title=f"Trunkline is up ({ready:.1f} s)", title_align="left", expand=False))
    if not started.providers:
        console.print(
            "No model provider is configured: set OPENAI_API_KEY, ANTHROPIC_API_KEY or another provider's variable, or "
            "add one under `providers:` in trunkline.yaml, and start again.",
            style="yellow",
            markup=False,
        )
    console.print("Ctrl-C stops it.", style="dim")
