"""Agents from files: the plan, doing it, doing it again, and what is pruned."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from support.control_plane import ControlPlane, running
from support.postgres import DatabaseUrls
from trunkline.cli.app import run
from trunkline.client import Agent, AsyncTrunkline, Trunkline
from trunkline.errors import InvalidRequest, SetupError

Said = pytest.CaptureFixture[str]


@pytest.fixture
def plane(database: DatabaseUrls, monkeypatch: pytest.MonkeyPatch) -> Iterator[ControlPlane]:
    with running(database) as control:
        monkeypatch.setenv("TRUNKLINE_BASE_URL", control.base_url)
        monkeypatch.setenv("TRUNKLINE_API_KEY", control.key)
        yield control


def write(folder: Path, **systems: str) -> str:
    """A folder of files, one for each agent."""
    for file in folder.glob("*"):
        file.unlink()
    for name, system in systems.items():
        (folder / f"{name}.yaml").write_text(f"agent:\n  name: {name}\n  instructions: {system}\n")
    return str(folder)


def changes(said: Said) -> dict[str, tuple[str, list[str]]]:
    found = json.loads(said.readouterr().out)["changes"]
    return {change["name"]: (change["action"], change["fields"]) for change in found}


def test_files_are_planned_applied_and_pruned(plane: ControlPlane, tmp_path: Path, capsys: Said) -> None:
    with plane.http() as http:
        http.post("/v1/agents", json={"name": "by-hand"})
    folder = write(tmp_path, alpha="One.", beta="Two.")
    assert run(["agent", "apply", "-f", folder, "--dry-run", "--json"]) == 0
    assert changes(capsys) == {"alpha": ("create", []), "beta": ("create", [])}
    assert run(["agent", "apply", "-f", folder]) == 0
    assert "alpha: created, version 1" in capsys.readouterr().out
    assert run(["agent", "apply", "-f", folder, "--prune", "--yes", "--json"]) == 0
    assert changes(capsys) == {"alpha": ("unchanged", []), "beta": ("unchanged", [])}

    folder = write(tmp_path, alpha="One, changed.", gamma="Three.")
    plan = {"alpha": ("update", ["system"]), "gamma": ("create", []), "beta": ("archive", [])}
    assert run(["agent", "apply", folder, "--prune", "--dry-run", "--json"]) == 0
    assert changes(capsys) == plan
    assert run(["agent", "apply", folder, "--prune"]) == 1
    assert "would archive beta" in capsys.readouterr().err
    assert run(["agent", "apply", folder, "--prune", "--yes", "--json"]) == 0
    assert changes(capsys) == plan
    with Trunkline() as client:
        there = {agent.name: agent.version for agent in client.agents.list()}
    assert there == {"alpha": 2, "by-hand": 1, "gamma": 1}, "what apply did not make stays"
    assert run(["agent", "apply", folder, "--prune", "--yes", "--json"]) == 0
    assert {action for action, _ in changes(capsys).values()} == {"unchanged"}


def test_nothing_is_written_where_one_of_several_is_wrong(plane: ControlPlane, tmp_path: Path, capsys: Said) -> None:
    folder = write(tmp_path, good="One.", wrong="Two.")
    (tmp_path / "wrong.yaml").write_text("agent:\n  name: wrong\n  memori: {}\n")
    assert run(["agent", "apply", folder]) == 2
    assert "memori" in capsys.readouterr().err
    with Trunkline() as client:
        assert client.agents.list() == ()
        with pytest.raises(SetupError, match="Two definitions"):
            client.agents.apply([{"name": "same"}, {"name": "same"}])
    (tmp_path / "empty").mkdir()
    assert run(["agent", "apply", str(tmp_path / "empty")]) == 1


async def test_the_same_from_python(plane: ControlPlane) -> None:
    name = uuid4().hex
    agents: list[Any] = [Agent(name=f"a-{name}"), {"name": f"b-{name}", "memory": {"token_budget": 100}}]
    async with AsyncTrunkline(plane.base_url, plane.key) as tl:
        planned = await tl.agents.apply(agents, prune=True, dry_run=True)
        assert [(one.action, one.agent) for one in planned] == [("create", None)] * 2
        assert await tl.agents.list() == ()
        assert [one.action for one in await tl.agents.apply(agents, prune=True)] == ["create"] * 2
        assert [one.action for one in await tl.agents.apply(agents, prune=True)] == ["unchanged"] * 2
        agents[1] = {"name": f"b-{name}", "memory": {"token_budget": 200}}
        (_, changed) = await tl.agents.apply(agents)
        assert (changed.action, changed.fields) == ("update", ("memory.token_budget",))
        (kept, gone) = await tl.agents.apply(agents[:1], prune=True)
        assert (kept.action, gone.action, gone.name) == ("unchanged", "archive", f"b-{name}")
        with pytest.raises(InvalidRequest):
            await tl.agents.apply({"name": "x", "memori": {}})
    with Trunkline(plane.base_url, plane.key) as client:
        assert [one.action for one in client.agents.apply(agents[:1], prune=True, dry_run=True)] == ["unchanged"]
