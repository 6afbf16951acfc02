"""The built-in tools, whole: files that a session was given, its shell, and who carries out what."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from integration.test_runtime import Stack, answers, said, stack_on, waits_for
from support import model_server, processes
from support.postgres import DatabaseUrls
from trunkline.runtime.tools.local_sandbox import confinement

SCRIPT = """
rules:
  - when: {last_role: tool}
    reply: "It said: {{tool_result}}"
  - when: {user: "^run (.*)"}
    tool_calls: [{name: bash, arguments: {command: "{{1}}"}}]
  - when: {user: "^write"}
    tool_calls: [{name: write, arguments: {file_path: poem.txt, content: roses}}]
"""
ASK = {"name": "write", "type": "write", "permission_policy": {"type": "always_ask"}}
OFF = {"name": "grep", "type": "grep", "enabled": False}
TOOLSET = {"type": "agent_toolset_20260401", "configs": [ASK, OFF]}


@pytest.fixture
def stack(database: DatabaseUrls, tmp_path: Path) -> Iterator[tuple[Stack, str]]:
    (tmp_path / "script.yaml").write_text(SCRIPT)
    with (
        model_server.started("--script", str(tmp_path / "script.yaml")) as model,
        stack_on(database, model.url, tmp_path) as running,
    ):
        yield running, model.url


@pytest.fixture
def directory() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="sandboxes-", dir="/tmp"))  # other users cannot reach into pytest's own
    made.chmod(0o711)
    yield made
    shutil.rmtree(made)


def results(events: list[Any]) -> list[tuple[str, bool]]:
    found = [event for event in events if event.type == "agent.tool_result"]
    return [("".join(block.text for block in event.content), event.is_error) for event in found]


@pytest.mark.skipif(confinement() is None, reason="there is no bubblewrap, and this is not root")
def test_a_session_works_with_its_files(stack: tuple[Stack, str], directory: Path) -> None:
    here, model_url = stack
    sdk = here.sdk
    file = sdk.beta.files.upload(file=("numbers.csv", b"1,2,3\n", "text/csv"))
    agent = sdk.beta.agents.create(name="coder", model="test", tools=[TOOLSET])  # type: ignore[list-item]
    mounted = {"type": "file", "file_id": file.id, "mount_path": "/workspace/data/numbers.csv"}
    session = sdk.beta.sessions.create(agent=agent.id, environment_id="default", resources=[mounted]).id  # type: ignore[list-item]
    log = here.folder / "worker.log"
    with processes.worker(here.database, here.gateway_url, log, tools={"directory": str(directory)}):
        here.send(session, said("run cat data/numbers.csv && echo more >> own"))
        events = here.until_idle(session)
        assert results(events) == [("1,2,3\n", False)], log.read_text()
        assert answers(events) == ["It said: 1,2,3\n"]

        here.send(session, said("write"))
        [use] = waits_for(here.until_idle(session, 2))
        here.send(session, {"type": "user.tool_confirmation", "tool_use_id": use, "result": "allow"})
        here.until_idle(session, 3)
    # Another worker of this machine finds what the first has left.
    with processes.worker(here.database, here.gateway_url, log, tools={"directory": str(directory)}):
        here.send(session, said("run cat own poem.txt"))
        assert results(here.until_idle(session, 4))[-1] == ("more\nroses", False)
    offered = httpx.get(f"{model_url}/_requests").json()[0]["body"]["tools"]
    assert [tool["name"] for tool in offered] == ["bash", "read", "write", "edit", "glob"]


def test_in_a_self_hosted_environment_the_client_carries_them_out(stack: tuple[Stack, str], directory: Path) -> None:
    here, _ = stack
    sdk = here.sdk
    place = sdk.beta.environments.create(name="mine", config={"type": "self_hosted"})
    agent = sdk.beta.agents.create(name="coder", model="test", tools=[TOOLSET])  # type: ignore[list-item]
    session = sdk.beta.sessions.create(agent=agent.id, environment_id=place.id).id
    log = here.folder / "worker.log"
    with processes.worker(here.database, here.gateway_url, log, tools={"directory": str(directory)}):
        here.send(session, said("run uname"))
        [use] = waits_for(here.until_idle(session))
        content = [{"type": "text", "text": "Plan 9"}]
        here.send(session, {"type": "user.tool_result", "tool_use_id": use, "content": content})
        events = here.until_idle(session, 2)
    assert answers(events) == ["It said: Plan 9"]
    assert results(events) == []
    assert list(directory.iterdir()) == []
