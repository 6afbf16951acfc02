from __future__ import annotations

import sys

import typer

from trunkline.cli import (
    agent,
    audit,
    bench,
    config,
    control,
    demo,
    keys,
    mcp,
    memory,
    migrate,
    model_server,
    sessions,
    teams,
    up,
    usage,
    users,
    worker,
)
from trunkline.cli.failure import INTERRUPTED, USAGE, exit_status, tell
from trunkline.cli.gateway import main as gateway_main
from trunkline.errors import TrunklineError

_EXIT_STATUS = (
    "Exit status: 0 done, 1 error, 2 wrong usage or input, 3 not found, 4 conflict, 5 not allowed, "
    "6 not reachable or overloaded, 130 interrupted."
)


def build() -> typer.Typer:
    """Return the whole command line."""
    app = typer.Typer(
        name="trunkline",
        help="Durable, structured memory in every model call an agent makes.",
        epilog=_EXIT_STATUS,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for module in (up, control, worker, migrate, mcp, model_server, demo):
        module.register(app)
    app.command(
        "gateway",
        help="Run a gateway on its own; `trunkline gateway --help` has its options.",
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )(_gateway)
    app.add_typer(agent.app, name="agent")
    app.add_typer(bench.app, name="bench")
    app.add_typer(config.app, name="config")
    app.add_typer(keys.app, name="keys")
    app.add_typer(memory.app, name="memory")
    app.add_typer(sessions.app, name="sessions")
    app.add_typer(teams.app, name="teams")
    app.add_typer(users.app, name="users")
    audit.register(app)
    usage.register(app)
    return app


def run(arguments: list[str]) -> int:
    """Run one command and return its exit status. Without arguments it is the help."""
    as_json = "--json" in arguments
    app = build()
    try:
        result = app(arguments or ["--help"], standalone_mode=False, prog_name="trunkline")
    except TrunklineError as error:
        tell(error, as_json=as_json)
        return exit_status(error)
    except typer.TyperException as error:
        sys.stderr.write(f"trunkline: {error.format_message()} See `{_named(app, arguments)} --help`.\n")
        return USAGE
    except (typer.Abort, KeyboardInterrupt):
        return INTERRUPTED
    return result if isinstance(result, int) else 0


def _named(app: typer.Typer, arguments: list[str]) -> str:
    """Return the command as far as it exists: `trunkline agent apply`, `trunkline agent` or `trunkline`."""
    words = ["trunkline"]
    group: typer.Typer | None = app
    for argument in arguments:
        if group is None:
            break
        inner = {entry.name: entry.typer_instance for entry in group.registered_groups}
        if argument not in inner and argument not in {entry.name for entry in group.registered_commands}:
            break
        words.append(argument)
        group = inner.get(argument)
    return " ".join(words)


def _gateway(context: typer.Context) -> int:
    return gateway_main(context.args)
