"""`trunkline gateway`: kept free of Typer, so that a gateway starts fast and stays small."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trunkline.cli.failure import exit_status, tell
from trunkline.errors import TrunklineError

if TYPE_CHECKING:
    from trunkline.settings import Settings


def main(arguments: list[str]) -> int:
    """Serve until SIGTERM or SIGINT and return the exit status."""
    options = _parse(arguments)
    try:
        _serve(options)
    except TrunklineError as error:
        tell(error, as_json=options.json)
        return exit_status(error)
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="trunkline gateway",
        description="Run a gateway on its own, on the database of DATABASE_URL or of a `trunkline up` on this machine.",
    )
    parser.add_argument(
        "-c",
        "--config",
        type=Path,
        help="trunkline.yaml or LiteLLM's config.yaml (default: here, else in TRUNKLINE_HOME)",
    )
    parser.add_argument("--listen", metavar="HOST:PORT", help="where to listen (default: settings, 127.0.0.1:4000)")
    parser.add_argument(
        "--control-url",
        default=os.environ.get("TRUNKLINE_CONTROL_URL", "http://127.0.0.1:4001"),
        help="where the control plane answers (TRUNKLINE_CONTROL_URL; default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print the address, and errors, as JSON")
    return parser.parse_args(arguments)


def _serve(options: argparse.Namespace) -> None:
    from trunkline._core import known_providers
    from trunkline.processes.addresses import running
    from trunkline.processes.gateway import serve
    from trunkline.processes.ports import base_url
    from trunkline.processes.reload import Reload
    from trunkline.provider_settings import KnownProvider
    from trunkline.settings import load

    environ = dict(os.environ)
    if options.listen:
        environ["TRUNKLINE_LISTEN"] = options.listen
    settings = load(options.config, environ)
    known = [KnownProvider.model_validate(provider) for provider in json.loads(known_providers())]
    database = running(settings).gateway

    def make(settings: Settings) -> dict[str, Any]:
        return settings.gateway_config(database, options.control_url, known)

    config = make(settings)
    for found in settings.unsupported:
        _tell(f"{settings.source}: `{found.key}` is not supported: {found.note}")

    def reload(apply: Callable[[Mapping[str, Any]], None]) -> Reload:
        def read() -> Settings:
            return load(options.config, environ)

        return Reload(settings, config, read=read, make=make, apply=apply, tell=_tell)

    def listening(port: int) -> None:
        url = base_url(f"{settings.listen.rpartition(':')[0]}:{port}")
        print(json.dumps({"base_url": url}) if options.json else f"gateway listening on {url}", flush=True)
        if not config["providers"]:
            _tell("no model provider is configured: set OPENAI_API_KEY, ANTHROPIC_API_KEY or another.")

    serve(config, listening=listening, reload=reload)


def _tell(line: str) -> None:
    sys.stderr.write(f"trunkline: {line}\n")
    sys.stderr.flush()
