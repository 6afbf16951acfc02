"""MCP servers as tools of agents: real servers over HTTP and as programs, the unmodified SDK, a scripted model."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anthropic
import httpx
import psycopg
import pytest

from integration.test_runtime import Stack, answers, count, kinds, said, stack_on, waits_for
from support import mcp_server, model_server, processes, token_endpoint
from support.mcp_server import PIXEL, Listening
from support.postgres import DatabaseUrls
from trunkline.domain.toolsets import mcp_tool_name

CALLED = ("picture", "no_picture", "fail", "shout", "safe", "unsafe")
SCRIPT = """
rules:
  - when: {last_role: tool}
    reply: "It said: {{tool_result}}"
  - when: {user: "^add"}
    tool_calls: [{name: mcp__tests__add, arguments: {one: 1, other: 2}}]
  - when: {user: "^wrongly"}
    tool_calls: [{name: mcp__tests__add, arguments: {one: many}}]
  - when: {user: "^environment (\\\\w+)"}
    tool_calls: [{name: mcp__tests__environment, arguments: {name: "{{1}}"}}]
  - when: {user: "^both"}
    tool_calls: [{name: mcp__tests__safe}, {name: mcp__tests__unsafe}]
"""
RULE = """  - when: {{user: "^call {name}$"}}
    tool_calls: [{{name: mcp__tests__{name}}}]
"""
ALLOWED = {"enabled": True, "permission_policy": {"type": "always_allow"}}


@dataclass(frozen=True)
class Served:
    """A stack, and the model that it asks."""

    stack: Stack
    model_url: str

    def worker(self, **mcp: Any) -> AbstractContextManager[Any]:
        settings = {"mcp": {"allow": ["127.0.0.1"], **mcp}}
        return processes.worker(self.stack.database, self.stack.gateway_url, self.log, tools=settings)

    @property
    def log(self) -> Path:
        return self.stack.folder / "worker.log"

    def session(self, url: str, *, sdk: anthropic.Anthropic | None = None, **more: Any) -> str:
        """A new session of an agent with one server, `tests`; `default_config` and `configs` are its toolset's."""
        sdk = sdk or self.stack.sdk
        toolset = {"default_config": more.pop("default_config", ALLOWED), "configs": more.pop("configs", [])}
        tools: Any = [{"type": "mcp_toolset", "mcp_server_name": "tests", **toolset}]
        agent = sdk.beta.agents.create(
            name=f"agent-{time.monotonic_ns()}",
            model="test",
            mcp_servers=[{"type": "url", "name": "tests", "url": url}],
            tools=tools,
        )
        more = {"environment_id": "default", **more}
        return sdk.beta.sessions.create(agent=agent.id, **more).id

    def offered(self) -> list[dict[str, Any]]:
        """The tools of the last call of the model."""
        tools: list[dict[str, Any]] = httpx.get(f"{self.model_url}/_requests").json()[-1]["body"].get("tools", [])
        return tools


@pytest.fixture
def served(database: DatabaseUrls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    (tmp_path / "script.yaml").write_text(SCRIPT + "".join(RULE.format(name=name) for name in CALLED))
    monkeypatch.setenv("SECRET_OF_THE_WORKER", "sw-verysecret")
    with (
        model_server.started("--script", str(tmp_path / "script.yaml")) as model,
        stack_on(database, model.url, tmp_path) as stack,
    ):
        yield Served(stack, model.url)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Listening]:
    with mcp_server.listening(tmp_path) as running:
        yield running


def program(folder: Path, **env: str) -> dict[str, Any]:
    """The settings of the server as a program."""
    path = {"PYTHONPATH": os.environ.get("PYTHONPATH", "") + f":{Path(__file__).parents[1]}"}
    return {
        "command": [sys.executable, "-m", "support.mcp_server"],
        "env": {**path, "TOOLS_FOLDER": str(folder), **env},
    }


def results(events: list[Any]) -> list[Any]:
    return [event for event in events if event.type == "agent.mcp_tool_result"]


def words(result: Any) -> str:
    return "".join(block.text for block in result.content if block.type == "text")


def bearer(sdk: anthropic.Anthropic, url: str, token: str) -> str:
    """A new vault with a token for a server."""
    vault = sdk.beta.vaults.create(display_name="tokens").id
    auth: Any = {"type": "static_bearer", "mcp_server_url": url, "token": token}
    sdk.beta.vaults.credentials.create(vault, auth=auth)
    return vault


def test_an_agent_calls_the_tools_of_a_server(served: Served, server: Listening) -> None:
    stack = served.stack
    with served.worker():
        session = served.session(server.url)
        turns = 0

        def turn(asked: str) -> Any:
            nonlocal turns
            stack.send(session, said(asked))
            turns += 1
            return results(stack.until_idle(session, turns))[-1]

        turn("add")
        events = stack.until_idle(session)
        assert kinds(events)[2:8] == [
            "span.model_request_start",
            "agent.mcp_tool_use",
            "span.model_request_end",
            "agent.mcp_tool_result",
            "span.model_request_start",
            "agent.message",
        ]
        use, result = events[3], events[5]
        assert (use.mcp_server_name, use.name, use.input) == ("tests", "add", {"one": 1, "other": 2})
        assert (use.evaluated_permission, use.evaluation.type) == ("allow", "always_allow")
        assert (result.mcp_tool_use_id, words(result), result.is_error) == (use.id, "3", False)
        assert answers(events) == ["It said: 3"]

        result = turn("wrongly")
        assert result.is_error
        assert "other" in words(result)
        result = turn("call fail")
        assert result.is_error
        assert "there is nothing there" in words(result)
        [image] = turn("call picture").content
        assert (image.type, image.source.media_type) == ("image", "image/png")
        assert len(image.source.data) > len(PIXEL)
        assert "is not" in words(turn("call no_picture"))
        loud = words(turn("call shout"))
        assert loud.startswith("beginning")
        assert loud.endswith("end")
        assert len(loud) < 100_000
    offered = served.offered()
    assert {tool["name"] for tool in offered} >= {"mcp__tests__add", "mcp__tests__picture"}
    [add] = [tool for tool in offered if tool["name"] == "mcp__tests__add"]
    assert add["description"] == "Add two numbers."
    assert set(add["input_schema"]["properties"]) == {"one", "other"}


def test_configs_say_which_tools_there_are_and_a_person_allows_calls(served: Served, server: Listening) -> None:
    stack = served.stack
    with served.worker():
        off = {"enabled": False, "permission_policy": {"type": "always_allow"}}
        on = {"name": "add", "enabled": True, "permission_policy": {"type": "always_ask"}}
        session = served.session(server.url, default_config=off, configs=[on])
        stack.send(session, said("add"))
        events = stack.until_idle(session)
        [use] = waits_for(events)
        [event] = [event for event in events if event.id == use]
        assert (event.type, event.evaluated_permission) == ("agent.mcp_tool_use", "ask")
        assert [tool["name"] for tool in served.offered()] == ["mcp__tests__add"]
        stack.send(session, {"type": "user.tool_confirmation", "tool_use_id": use, "result": "allow"})
        assert [words(result) for result in results(stack.until_idle(session, 2))] == ["3"]
        stack.send(session, said("add"))
        [use] = waits_for(stack.until_idle(session, 3))
        stack.send(session, {"type": "user.tool_confirmation", "tool_use_id": use, "result": "deny"})
        denied = results(stack.until_idle(session, 4))[-1]
        assert (denied.is_error, words(denied)) == (True, "The user did not allow this call.")
        stack.send(session, said("call fail"))  # which is not enabled
        events = stack.until_idle(session, 5)
        assert [event.evaluated_permission for event in events if event.type == "agent.tool_use"] == ["deny"]
        asked = server.requests
        nothing = served.session(server.url, default_config=off)
        stack.send(nothing, said("Hello"))
        stack.until_idle(nothing)
        assert server.requests == asked


def test_a_token_reaches_its_own_server_alone_and_is_nowhere_else(
    served: Served, tmp_path: Path, server: Listening
) -> None:
    stack = served.stack
    ours, theirs = "tk-ours-verysecret", "tk-theirs-verysecret"
    other = stack.control.sdk(stack.control.another_tenant())
    with served.worker(), mcp_server.listening(tmp_path, token=ours) as guarded:
        vault, foreign = bearer(stack.sdk, guarded.url, ours), bearer(other, guarded.url, theirs)
        session = served.session(guarded.url, vault_ids=[vault])
        stack.send(session, said("add"))
        events = stack.until_idle(session)
        assert [words(result) for result in results(events)] == ["3"]
        assert set(guarded.shown) == {f"Bearer {ours}"}
        guarded.shown.clear()

        # Another tenant has its own token, or none, for the same URL.
        for vaults, shown in (([foreign], f"Bearer {theirs}"), ([], None)):
            session = served.session(guarded.url, sdk=other, vault_ids=vaults)
            asked: Any = said("add")
            with other.beta.sessions.events.stream(session) as stream:
                other.beta.sessions.events.send(session, events=[asked])
                found: list[Any] = []
                for event in stream:
                    found.append(event)
                    if event.type == "session.status_idle":
                        break
            [error] = [event.error for event in found if event.type == "session.error"]
            assert (error.type, error.mcp_server_name) == ("mcp_authentication_failed_error", "tests")
            assert error.retry_status.type == "retrying"
            assert theirs not in error.message
            assert shown in guarded.shown
            assert f"Bearer {ours}" not in guarded.shown
        # A session with the vault shows the token to no other server, nor where its own sends it to.
        session = served.session(server.url, vault_ids=[vault])
        stack.send(session, said("add"))
        assert [words(result) for result in results(stack.until_idle(session))] == ["3"]
        assert set(server.shown) == {None}
        for elsewhere in (server.url, guarded.url.replace("/mcp", "/another")):
            guarded.redirect_to, guarded.shown[:] = elsewhere, []
            url = f"{guarded.url}?{elsewhere}"
            session = served.session(url, vault_ids=[bearer(stack.sdk, url, ours)])
            stack.send(session, said("Hello"))
            assert count(stack.until_idle(session))["session.error"] == 1
            assert set(server.shown) == {None}
        assert set(guarded.shown) == {f"Bearer {ours}", None}  # and None is what was asked at /another
    assert "verysecret" not in served.log.read_text()
    assert "verysecret" not in (stack.folder / "gateway.log").read_text()
    kept = stack.query("select payload::text from trunkline.events")
    assert not any("verysecret" in text for (text,) in kept)


def test_an_oauth_token_is_renewed_while_a_session_works(served: Served, tmp_path: Path) -> None:
    stack = served.stack
    with served.worker(), token_endpoint.listening() as endpoint, mcp_server.listening(tmp_path, token="") as server:
        endpoint.on_given = lambda token: setattr(server, "token", token)
        vault = stack.sdk.beta.vaults.create(display_name="tokens").id
        soon = (datetime.now(UTC) + timedelta(seconds=30)).isoformat()
        stack.sdk.beta.vaults.credentials.create(vault, auth=endpoint.auth(server.url, expires_at=soon))
        session = served.session(server.url, vault_ids=[vault])
        stack.send(session, said("add"))
        assert [words(result) for result in results(stack.until_idle(session))] == ["3"]
        assert set(server.shown) == {"Bearer at-verysecret-1"}, "a token that ends soon was shown"

        # The server takes it no more: the call is made again with another, over the same connection.
        server.token, server.shown[:] = "at-verysecret-none", []
        stack.send(session, said("add"))
        assert [words(result) for result in results(stack.until_idle(session, 2))] == ["3", "3"]
        assert server.shown == ["Bearer at-verysecret-1", "Bearer at-verysecret-2"]

        server.token, endpoint.is_over = "at-verysecret-none", True
        stack.send(session, said("add"))
        events = stack.until_idle(session, 3)
        assert results(events)[-1].is_error
        [error] = [event.error for event in events if event.type == "session.error"]
        assert (error.type, error.mcp_server_name) == ("mcp_authentication_failed_error", "tests")
        assert "invalid_grant" in error.message
        assert len(answers(events)) == 3
        # And one that has ended and cannot be renewed is shown to nobody.
        with psycopg.connect(stack.database.admin_url) as connection:
            connection.execute(
                'update trunkline.vault_credentials set auth = auth || \'{"expires_at": "2020-01-01T00:00:00Z"}\''
            )
        server.shown.clear()
        other = served.session(server.url, vault_ids=[vault])
        stack.send(other, said("Hello"))
        events = stack.until_idle(other)
        assert [event.error.type for event in events if event.type == "session.error"] == [
            "mcp_authentication_failed_error"
        ]
        assert server.shown == []
    told = [served.log.read_text(), (stack.folder / "gateway.log").read_text()]
    told += [text for (text,) in stack.query("select payload::text from trunkline.events")]
    told.append(httpx.get(f"{served.model_url}/_requests").text)
    assert not any("verysecret" in text for text in told)


def test_a_server_that_is_inside_away_or_gone_does_not_end_the_session(
    served: Served, tmp_path: Path, server: Listening
) -> None:
    stack = served.stack

    def failure(session: str, turns: int = 1) -> str:
        stack.send(session, said("Hello"))
        events = stack.until_idle(session, turns)
        assert events[-1].stop_reason.type == "end_turn"
        [error] = [event.error for event in events if event.type == "session.error"][turns - 1 :]
        assert error.type == "mcp_connection_failed_error"
        return str(error.message)

    with served.worker(allow=[]):
        assert "is not public" in failure(served.session(server.url))
        assert "is not public" in failure(served.session("http://169.254.169.254/latest/meta-data"))
    assert server.requests == 0
    with served.worker():
        assert "could not be reached" in failure(served.session("http://127.0.0.1:1/mcp"))
        assert "has no MCP server stdio://files" in failure(served.session("stdio://files"))
        limited: Any = {"type": "cloud", "networking": {"type": "limited", "allowed_hosts": ["example.com"]}}
        place = stack.sdk.beta.environments.create(name="limited", config=limited).id
        assert "does not let it reach" in failure(served.session(server.url, environment_id=place))
        with mcp_server.listening(tmp_path) as passing:
            session = served.session(passing.url)
            stack.send(session, said("add"))
            assert [words(result) for result in results(stack.until_idle(session))] == ["3"]
        stack.send(session, said("add"))
        result = results(stack.until_idle(session, 2))[-1]
        assert result.is_error
        assert words(result).startswith("The MCP server tests cannot be used: ")
        assert count(stack.events(session))["agent.message"] == 2


def test_after_a_crash_only_what_may_be_done_twice_is_done_again(
    served: Served, server: Listening, tmp_path: Path
) -> None:
    stack = served.stack
    with served.worker() as first:
        session = served.session(server.url)
        stack.send(session, said("both"))
        stack.until(session, lambda _: (tmp_path / "safe").exists() and (tmp_path / "unsafe").exists())
        first.kill()
        with served.worker():
            events = stack.until_idle(session)
    uses = {event.name: event.id for event in events if event.type == "agent.mcp_tool_use"}
    found = {event.mcp_tool_use_id: (words(event), event.is_error) for event in results(events)}
    assert found[uses["safe"]] == ("done", False)
    text, wrong = found[uses["unsafe"]]
    assert wrong
    assert "unknown" in text
    assert (tmp_path / "unsafe").read_text() == "begun\n"
    assert len(answers(events)) == 1


def test_programs_are_the_operators_and_see_nothing_of_the_worker(served: Served, tmp_path: Path) -> None:
    stack = served.stack
    servers = {"files": program(tmp_path, GIVEN="by the operator"), "broken": {"command": ["/nothing/of/the/kind"]}}
    with served.worker(servers=servers):
        session = served.session("stdio://files")
        for turn, (asked, answer) in enumerate(
            (("add", "3"), ("environment GIVEN", "by the operator"), ("environment SECRET_OF_THE_WORKER", "nothing")), 1
        ):
            stack.send(session, said(asked))
            result = results(stack.until_idle(session, turn))[-1]
            assert (words(result), result.is_error) == (answer, False)
        broken = served.session("stdio://broken")
        stack.send(broken, said("Hello"))
        [error] = [event.error for event in stack.until_idle(broken) if event.type == "session.error"]
        assert error.type == "mcp_connection_failed_error"
        assert "/nothing" not in error.message
    for url in ("stdio://", "stdio:///bin/sh", "stdio://sh -c", "file:///bin/sh", "sh"):
        with pytest.raises(anthropic.BadRequestError):
            served.session(url)


def test_names_of_tools_are_those_that_all_models_take() -> None:
    assert mcp_tool_name("tests", "add") == "mcp__tests__add"
    assert mcp_tool_name("a.b", "c") != mcp_tool_name("a_b", "c")
    assert len(mcp_tool_name("s" * 255, "t" * 255)) <= 64
