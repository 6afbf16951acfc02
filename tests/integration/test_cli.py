from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.control_plane import ControlPlane
from trunkline.cli.app import run

pytestmark = pytest.mark.tenant

EXAMPLES = Path(__file__).parents[2] / "examples"
WHO = ["support-resolver", "--user", "cus_42"]


@pytest.fixture(autouse=True)
def _connected(control: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNKLINE_BASE_URL", control.base_url)
    monkeypatch.setenv("TRUNKLINE_API_KEY", control.key)


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> pytest.CaptureFixture[str]:
    return capsys


def test_agents_of_both_example_files(said: pytest.CaptureFixture[str]) -> None:
    assert run(["agent", "apply", str(EXAMPLES / "support_resolver.yaml")]) == 0
    assert "created, version 1" in said.readouterr().out
    assert run(["agent", "apply", str(EXAMPLES / "smallest.yaml"), "--json"]) == 0
    (change,) = json.loads(said.readouterr().out)["changes"]
    assert (change["action"], change["agent"]["version"]) == ("update", 2)
    assert run(["agent", "list"]) == 0
    assert "support-resolver" in said.readouterr().out


def test_memory_is_set_shown_and_has_a_history(said: pytest.CaptureFixture[str]) -> None:
    assert run(["agent", "apply", str(EXAMPLES / "support_resolver.yaml")]) == 0
    assert run(["memory", "set", *WHO[:1], "customer.name", "Ada Lovelace", *WHO[1:]]) == 0
    assert run(["memory", "set", *WHO[:1], "customer.preferences", '{"size": "M"}', "--op", "merge", *WHO[1:]]) == 0
    said.readouterr()
    assert run(["memory", "show", *WHO]) == 0
    shown = said.readouterr().out
    assert 'name: "Ada Lovelace"' in shown
    assert 'preferences: {"size": "M"}' in shown
    assert run(["memory", "history", *WHO[:1], "customer", *WHO[1:], "--json"]) == 0
    assert [version["version"] for version in json.loads(said.readouterr().out)] == [2, 1]
    assert run(["memory", "history", *WHO[:1], "customer", *WHO[1:]]) == 0
    assert 'set name "Ada Lovelace"' in said.readouterr().out


def test_a_write_that_breaks_the_schema_or_a_precondition_fails_in_one_line(said: pytest.CaptureFixture[str]) -> None:
    assert run(["agent", "apply", str(EXAMPLES / "support_resolver.yaml")]) == 0
    said.readouterr()
    assert run(["memory", "set", *WHO[:1], "customer.name", "7", *WHO[1:]]) == 2
    assert said.readouterr().err.count("\n") == 1
    assert run(["memory", "set", *WHO[:1], "customer.name", "Ada", "--expect-sha256", "0" * 64, *WHO[1:]]) == 4
    assert said.readouterr().err.count("\n") == 1


def test_keys_come_and_go(said: pytest.CaptureFixture[str]) -> None:
    assert run(["keys", "create", "bob", "--scope", "memory", "--scope", "inference", "--json"]) == 0
    made = json.loads(said.readouterr().out)
    assert made["key"].startswith("sk-tl-")
    assert set(made["scopes"]) == {"inference", "memory"}
    assert run(["keys", "revoke", made["id"]]) == 0
    said.readouterr()
    assert run(["keys", "list", "--json"]) == 0
    listed = {key["name"]: key for key in json.loads(said.readouterr().out)}
    assert listed["bob"]["revoked_at"] is not None
    assert "key" not in listed["bob"]
    for option, stores in ((["--store-bodies"], True), (["--no-store-bodies"], False), ([], None)):
        assert run(["keys", "create", "eve", *option, "--json"]) == 0
        assert json.loads(said.readouterr().out)["store_bodies"] is stores


def test_teams_share_limits_until_they_are_archived(said: pytest.CaptureFixture[str]) -> None:
    made = ["teams", "create", "crew", "--budget-usd", "50", "--period", "month", "--rpm", "60", "--model", "gpt-*"]
    assert run(made) == 0
    shown = said.readouterr().out
    assert "limits: $50.00 a month, 60 rpm, models gpt-*" in shown
    assert "spent: $0.000000 in 0 requests" in shown
    assert run(made) == 4, "the name is in use"
    assert said.readouterr().err.count("\n") == 1
    assert run(["keys", "create", "of the crew", "--team", "crew", "--json"]) == 0
    key = json.loads(said.readouterr().out)
    change = ["teams", "update", "crew", "--name", "band", "--tpm", "900", "--no-limit", "rpm", "--no-limit", "models"]
    assert run([*change, "--json"]) == 0
    changed = json.loads(said.readouterr().out)
    assert [changed[name] for name in ("name", "budget_usd", "rpm", "tpm", "models")] == ["band", 50, None, 900, None]
    assert run(["teams", "show", changed["id"]]) == 0
    assert "limits: $50.00 a month, 900 tpm" in said.readouterr().out
    assert run(["teams", "list"]) == 0
    assert "band" in said.readouterr().out
    assert run(["teams", "archive", "band"]) == 0
    assert "archived" in said.readouterr().out
    assert run(["keys", "list", "--json"]) == 0
    assert {known["id"]: known["revoked_at"] for known in json.loads(said.readouterr().out)}[key["id"]] is not None
    assert run(["teams", "list", "--json"]) == 0
    assert "band" not in {team["name"] for team in json.loads(said.readouterr().out)}
    assert run(["teams", "update", changed["id"], "--rpm", "1"]) == 4


def test_users_have_limits_of_their_own_until_they_are_removed(said: pytest.CaptureFixture[str]) -> None:
    user = "ada@example.com"
    assert run(["users", "limits", "set", user, "--parallel", "2", "--budget-usd", "0.5", "--period", "3600"]) == 0
    assert said.readouterr().out == f"{user}: $0.50 each 3600 s, 2 at once\n"
    assert run(["users", "limits", "list", user, "--json"]) == 0
    (found,) = json.loads(said.readouterr().out)
    assert (found["user_id"], found["parallel"], found["budget_period"]) == (user, 2, 3600)
    assert run(["users", "limits", "set", user, "--rpm", "5", "--json"]) == 0
    assert json.loads(said.readouterr().out)["parallel"] is None, "they take the place of those before"
    assert run(["users", "limits", "list"]) == 0
    assert "5 rpm" in said.readouterr().out
    assert run(["users", "limits", "remove", user]) == 0
    assert run(["users", "limits", "list", user, "--json"]) == 0
    assert said.readouterr().out.endswith("[]\n")
    assert run(["users", "limits", "remove", user]) == 3


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["teams", "show", "nobody"], 3),
        (["teams", "update", "nobody", "--no-limit", "odd"], 2),
        (["users", "limits", "set", "u", "--period", "fortnight"], 2),
        (["sessions", "show", "sesn_" + "0" * 32], 3),
        (["keys", "revoke", "key_" + "0" * 32], 3),
        (["memory", "show", "nobody", "--user", "u"], 3),
        (["keys", "create", "x", "--scope", "nonsense"], 2),
    ],
)
def test_refusals_have_their_exit_status(arguments: list[str], status: int, said: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == status
    told = said.readouterr().err
    assert told.startswith("trunkline: ")
    assert told.count("\n") == 1


def test_a_key_that_is_not_known_is_status_5(monkeypatch: pytest.MonkeyPatch, said: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TRUNKLINE_API_KEY", "sk-tl-nonsense")
    assert run(["agent", "list"]) == 5
    assert "API key" in said.readouterr().err


def test_sessions_and_usage_of_a_new_tenant_are_empty(said: pytest.CaptureFixture[str]) -> None:
    assert run(["sessions", "list"]) == 0
    assert run(["usage", "--json"]) == 0
    assert '"requests": 0' in said.readouterr().out
    assert run(["usage", "--by", "model,key", "--bucket", "day", "--since", "2026-01-01"]) == 0
    assert "No calls." in said.readouterr().out
    assert run(["usage", "--by", "colour"]) == 2
    assert "colour" in said.readouterr().err
