from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trunkline.cli.output import AsJson, print_json
from trunkline.errors import InvalidRequest, SetupError


def register(app: typer.Typer) -> None:
    """Add `trunkline model-server`."""
    app.command("model-server")(model_server)


def model_server(
    *,
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 9000,
    script: Annotated[Path | None, typer.Option(help="YAML rules: patterns and what is replied.")] = None,
    api_key: Annotated[str | None, typer.Option(help="The only key accepted; any without it.")] = None,
    latency_ms: Annotated[int | None, typer.Option(help="Wait before the first byte.")] = None,
    tokens_per_s: Annotated[float | None, typer.Option(help="How fast streams run.")] = None,
    error: Annotated[int | None, typer.Option(help="Answer with this HTTP status.")] = None,
    rate_limit: Annotated[int | None, typer.Option(help="Answer 429 with `Retry-After` of so many seconds.")] = None,
    cut_after_events: Annotated[int | None, typer.Option(help="Close streams after so many events.")] = None,
    stall: Annotated[int | None, typer.Option(help="Send nothing more after so many events.")] = None,
    malformed: Annotated[bool, typer.Option("--malformed", help="Send what is no valid JSON.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a model provider that needs no network and answers the same every time, for tests and demos.

    It speaks the OpenAI and the Anthropic wires; point a client, or a provider of trunkline.yaml, at it.
    """
    from pydantic import ValidationError

    from trunkline.model_server import Faults, ModelServerError, run

    try:
        faults = Faults(
            latency_ms=latency_ms,
            tokens_per_s=tokens_per_s,
            error=error,
            rate_limit=rate_limit,
            cut_after_events=cut_after_events,
            stall=stall,
            malformed=malformed or None,
        )
        run(host, port, script, defaults=faults, api_key=api_key, announce=_print_json if as_json else None)
    except ValidationError as fault:
        first = fault.errors()[0]
        raise InvalidRequest(f"--{str(first['loc'][0]).replace('_', '-')}: {first['msg']}.") from fault
    except ModelServerError as fault:
        raise SetupError(str(fault)) from fault


def _print_json(line: str) -> None:
    print_json({"base_url": line.rpartition(" ")[2]})
