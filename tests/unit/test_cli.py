from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from trunkline import errors
from trunkline.cli.app import run
from trunkline.cli.failure import exit_status
from trunkline.cli.gateway import main as gateway
from trunkline.cli.memory import describe

COMMANDS = (
    ["up"],
    ["gateway"],
    ["control"],
    ["worker"],
    ["migrate"],
    ["demo"],
    ["model-server"],
    ["usage"],
    *(["agent", name] for name in ("apply", "list")),
    *(["keys", name] for name in ("create", "list", "revoke")),
    *(["memory", name] for name in ("show", "set", "history")),
    *(["sessions", name] for name in ("list", "show", "fork")),
)


@pytest.fixture(autouse=True)
def _nothing_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("TRUNKLINE_BASE_URL", "TRUNKLINE_API_KEY", "DATABASE_URL", "TRUNKLINE_LISTEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRUNKLINE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def test_no_arguments_is_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    shown = capsys.readouterr().out
    for command in {words[0] for words in COMMANDS}:
        assert command in shown


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_and_json(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    if command == ["gateway"]:
        with pytest.raises(SystemExit) as left:
            gateway(["--help"])
        assert left.value.code == 0
    else:
        assert run([*command, "--help"]) == 0
    assert "--json" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "See `trunkline --help`."),
        (["agent", "nonsense"], "See `trunkline agent --help`."),
        (["agent", "apply"], "See `trunkline agent apply --help`."),
        (["memory", "set", "agent", "field-without-block", "x"], "expected BLOCK.FIELD"),
        (["sessions", "list", "--limit", "0"], "--limit"),
        (["model-server", "--latency-ms", "-1"], "--latency-ms"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.startswith("trunkline: ")
    assert told.count("\n") == 1


def test_without_a_server_it_says_how_to_start_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["agent", "list"]) == 1
    told = capsys.readouterr().err
    assert "trunkline up" in told
    assert told.count("\n") == 1


def test_an_error_is_json_where_json_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["agent", "list", "--json"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert json.loads(told.err)["type"] == "setup_error"


def test_a_server_that_is_not_there_is_status_6(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRUNKLINE_BASE_URL", "http://127.0.0.1:9")  # discard: nobody listens
    monkeypatch.setenv("TRUNKLINE_API_KEY", "sk-tl-x")
    assert run(["keys", "list"]) == 6
    assert "http://127.0.0.1:9" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.SetupError("x"), 1),
        (errors.Internal("x"), 1),
        (errors.InvalidRequest("x"), 2),
        (errors.NotFound("x"), 3),
        (errors.Conflict("x"), 4),
        (errors.Unauthenticated("x"), 5),
        (errors.Forbidden("x"), 5),
        (errors.Unavailable("x"), 6),
    ],
)
def test_exit_statuses(error: errors.TrunklineError, status: int) -> None:
    assert exit_status(error) == status


def test_a_missing_agent_file_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["agent", "apply", "nowhere.yaml"]) == 1
    assert "nowhere.yaml" in capsys.readouterr().err


def test_an_unknown_setting_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "trunkline.yaml").write_text("listne: 127.0.0.1:1\n")
    assert run(["up"]) == 1
    assert "listne" in capsys.readouterr().err


def test_control_and_gateway_without_a_database_say_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["control"]) == 1
    assert "DATABASE_URL" in capsys.readouterr().err
    assert gateway([]) == 1
    assert "DATABASE_URL" in capsys.readouterr().err


def test_operations_as_a_person_reads_them() -> None:
    operations = ({"op": "set", "field": "name", "value": "Ada"}, {"op": "remove", "field": "size"})
    assert describe(operations) == 'set name "Ada"; remove size'


def test_the_gateway_command_imports_little() -> None:
    heavy = ("fastapi", "sqlalchemy", "alembic", "rich", "typer", "httpx", "psycopg", "uvicorn", "asyncio")
    code = (
        "import sys; import trunkline.cli, trunkline.cli.gateway, trunkline.processes.gateway, trunkline.settings;"
        "import trunkline.processes.addresses, trunkline.processes.ports;"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
