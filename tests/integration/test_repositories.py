"""Repositories of sessions: cloned by a worker from a real git host, their tokens seen by that host alone."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any
from uuid import UUID

import anthropic
import httpx
import psycopg
import pytest

from integration.test_runtime import Stack, answers, said, stack_on
from integration.test_runtime_sandbox import SCRIPT, directory, results
from support import git_server, model_server, processes
from support.control_plane import ControlPlane
from support.git_server import GitServer, git
from trunkline.runtime.tools import repositories
from trunkline.runtime.tools.local_sandbox import confinement, open_sandbox

__all__ = ["directory"]

TOKEN = "gh-verysecret"
TOOLS: Any = [{"type": "agent_toolset_20260401"}]
pytestmark = pytest.mark.skipif(
    confinement() is None or shutil.which("git") is None, reason="there is no sandbox, or no git"
)
Worker = Callable[..., AbstractContextManager[Any]]


@pytest.fixture
def stack(database: Any, tmp_path: Path) -> Iterator[Stack]:
    (tmp_path / "script.yaml").write_text(SCRIPT)
    with (
        model_server.started("--script", str(tmp_path / "script.yaml")) as model,
        stack_on(database, model.url, tmp_path) as running,
    ):
        yield running
        assert "verysecret" not in httpx.get(f"{model.url}/_requests").text
    for log in tmp_path.glob("*.log"):
        assert "verysecret" not in log.read_text()
    with psycopg.connect(database.admin_url) as connection:
        for table in ("events", "sessions", "repository_tokens", "idempotency_keys", "audit_log"):
            kept = str(connection.execute(f"select t::text from trunkline.{table} t").fetchall())
            assert "verysecret" not in kept
            assert b"verysecret".hex() not in kept


@pytest.fixture
def host(tmp_path: Path) -> Iterator[GitServer]:
    folder = tmp_path / "repositories"
    folder.mkdir()
    with git_server.listening(folder) as found:
        yield found


@pytest.fixture
def worker(stack: Stack, directory: Path) -> Worker:
    def start(allow: Any = ("127.0.0.1",)) -> AbstractContextManager[Any]:
        settings = {"directory": str(directory), "repositories": {"allow": list(allow)}}
        return processes.worker(stack.database, stack.gateway_url, stack.folder / "worker.log", tools=settings)

    return start


def session(stack: Stack, url: str, sdk: anthropic.Anthropic | None = None, **more: Any) -> str:
    sdk = sdk or stack.sdk
    agent = sdk.beta.agents.create(name=f"coder-{time.monotonic_ns()}", model="test", tools=TOOLS)
    resource: Any = {"type": "github_repository", "url": url, **more}
    return sdk.beta.sessions.create(agent=agent.id, environment_id="default", resources=[resource]).id


def run(stack: Stack, of: str, command: str, turn: int = 1) -> tuple[str, list[Any]]:
    """What a command of the session's says, and the errors that the session was told of by then."""
    stack.send(of, said(f"run {command}"))
    events = stack.until_idle(of, turn)
    return results(events)[-1][0], [event.error for event in events if event.type == "session.error"]


def seen_in_processes(secret: bytes) -> list[str]:
    """Where in the arguments and environments of all processes a secret stands, but for this one's."""
    found = []
    for kind in ("cmdline", "environ"):
        for file in Path("/proc").glob(f"[0-9]*/{kind}"):
            try:
                if secret in file.read_bytes():
                    found.append(f"{file} {(file.parent / 'cmdline').read_bytes()!r}")
            except OSError:
                continue
    return found


def test_a_private_repository_is_there_before_the_first_tool(
    stack: Stack, host: GitServer, worker: Worker, directory: Path
) -> None:
    url = host.made("notes")
    host.token = TOKEN
    seen: list[str] = []
    host.before = lambda: seen.extend(seen_in_processes(TOKEN.encode()))
    of = session(stack, url, authorization_token=TOKEN)
    [told] = stack.sdk.beta.sessions.retrieve(of).resources
    assert told.type == "github_repository"
    assert (told.url, told.mount_path, told.checkout) == (url, "/workspace/notes", None)
    with worker():
        said_by_git, errors = run(stack, of, "cat notes/README && cd notes && git status --short --branch")
        assert errors == []
        assert said_by_git == "hello## main...origin/main\n"
        assert set(host.asked) == {TOKEN}
        assert seen == []
        # It is nowhere in what the session can read.
        assert run(stack, of, "env; cat notes/.git/config", 2)[0].count(url) == 1
        assert run(stack, of, "grep -rc very.ecret . | grep -v :0; echo $?", 3)[0] == "1\n"
        asked = len(host.asked)
        assert run(stack, of, "cat notes/README", 4)[0] == "hello"
        assert len(host.asked) == asked, "it was cloned again"
    for file in directory.rglob("*"):
        assert not file.is_file() or b"verysecret" not in file.read_bytes()
        assert not file.name.startswith("clone-")
    # A fork is given it too, with a copy of the token.
    with stack.control.http() as http:
        other = http.post(f"/v1/sessions/{of}/fork").json()["id"]
    with worker():
        assert run(stack, other, "cat notes/README", 5) == ("hello", [])


def test_a_branch_or_a_commit_is_checked_out(stack: Stack, host: GitServer, worker: Worker) -> None:
    url = host.made("notes")
    commit = git("rev-parse", "other", at=host.folder / "notes.git")
    with worker():
        of = session(stack, url, checkout={"type": "branch", "name": "other"}, mount_path="/srv/deep/code")
        look = "git rev-parse HEAD --abbrev-ref HEAD && cat README"
        place = "cd ${ROOT}/srv/deep/code && "
        assert run(stack, of, place + look) == (f"{commit}\nother\nelsewhere", [])
        of = session(stack, url, checkout={"type": "commit", "sha": commit})
        assert run(stack, of, "cd notes && " + look) == (f"{commit}\nHEAD\nelsewhere", [])
        for checkout in ({"type": "branch", "name": "missing"}, {"type": "commit", "sha": "0" * 40}):
            of = session(stack, url, checkout=checkout)
            listed, [error] = run(stack, of, "ls")
            assert (listed, error.type, error.repository_url) == ("", "repository_checkout_error", url)
            assert error.message.endswith(("no branch missing.", f"no commit {'0' * 40} on a branch."))


def test_another_token_has_it_cloned_at_the_next_turn(stack: Stack, host: GitServer, worker: Worker) -> None:
    url = host.made("notes")
    host.token = TOKEN
    of = session(stack, url, authorization_token="gh-verysecret-old")
    with worker():
        listed, [error] = run(stack, of, "ls")
        assert (listed, error.type) == ("", "repository_authentication_error")
        assert error.retry_status.type == "retrying"
        assert answers(stack.events(of)) == ["It said: "]
        attached = stack.sdk.beta.sessions.resources
        [resource] = list(attached.list(of))
        assert resource.type == "github_repository"
        changed = attached.update(resource.id, session_id=of, authorization_token=TOKEN)
        assert changed.type == "github_repository"
        assert changed.id == resource.id
        assert changed.updated_at > resource.updated_at
        assert run(stack, of, "cat notes/README", 2)[0] == "hello"
        none = session(stack, url)
        assert run(stack, none, "ls")[1][0].type == "repository_authentication_error"
    assert attached.delete(resource.id, session_id=of).id == resource.id
    assert stack.query("select count(*) from trunkline.repository_tokens") == [(0,)]


def test_what_cannot_be_cloned_is_told_and_the_session_goes_on(stack: Stack, host: GitServer, worker: Worker) -> None:
    url = host.made("notes")

    def error(of: str) -> Any:
        listed, [found] = run(stack, of, "ls")
        assert listed == ""
        assert "verysecret" not in found.message
        return found

    with worker():
        assert error(session(stack, f"{host.base_url}/nothing.git")).type == "repository_not_found_error"
        host.status = 403
        assert error(session(stack, url, authorization_token=TOKEN)).type == "repository_forbidden_error"
        host.status, host.moved_to = None, host.base_url
        moved = error(session(stack, url, authorization_token=TOKEN))
        assert (moved.type, "redirects are not followed" in moved.message) == ("repository_clone_error", True)
        host.moved_to = None
        assert "of the system's" in error(session(stack, url, mount_path="/etc/notes")).message
        assert "not public" in error(session(stack, "http://169.254.169.254/latest/meta-data")).message
    with worker(allow=()):
        host.asked.clear()
        assert "not public" in error(session(stack, url, authorization_token=TOKEN)).message
        assert "over https" in error(session(stack, "http://192.88.99.1/a/b")).message
        assert host.asked == []


def test_a_link_at_its_place_is_not_followed(
    stack: Stack, host: GitServer, worker: Worker, tmp_path_factory: pytest.TempPathFactory
) -> None:
    url = host.made("notes")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    elsewhere.chmod(0o777)
    host.status = 503
    of = session(stack, url, mount_path="/workspace/link/notes")
    with worker():
        assert run(stack, of, f"ln -s {elsewhere} link && ls link")[1][0].type == "repository_clone_error"
        host.status = None
        _, errors = run(stack, of, "ls", 2)
        assert "symbolic link" in errors[-1].message
        assert list(elsewhere.iterdir()) == []
        assert run(stack, of, "rm link", 3)[0] == ""
        assert run(stack, of, "cat link/notes/README", 4)[0] == "hello"


async def test_git_goes_to_the_address_that_was_looked_at(
    host: GitServer,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host.made("notes")
    url = f"http://git.example:{host.server.server_address[1]}/notes.git"

    async def looked_at(*_: Any) -> IPv4Address:
        return IPv4Address("127.0.0.1")

    monkeypatch.setattr(repositories, "address_of", looked_at)
    settings = await repositories.reached(url, ("git.example",))
    how = confinement()
    assert how is not None
    sandbox = open_sandbox(directory, UUID(int=1), confined=how, network=False)
    folder = directory / "folder"
    folder.mkdir()
    if sandbox.user is not None:
        os.chown(folder, sandbox.user, sandbox.user)
    git_here = repositories.Git(sandbox, folder, settings, None)
    await git_here.look()
    await git_here.clone(url, None)
    assert (folder / "new" / "README").read_text() == "hello"
    monkeypatch.setattr(sandbox.__class__, "path", "/nowhere")
    with pytest.raises(Exception, match="Git is not installed"):
        await git_here.look()


def test_repositories_over_the_api(control: ControlPlane) -> None:
    sdk = control.sdk()
    agent = sdk.beta.agents.create(name="coder", model="m").id
    with control.http() as http:

        def begin(**resource: Any) -> httpx.Response:
            whole = {"type": "github_repository", "url": "https://github.com/a/b", **resource}
            return http.post("/v1/sessions", json={"agent": agent, "resources": [whole]})

        wrong = [
            begin(url="git@github.com:a/b.git"),
            begin(url="https://user:gh-verysecret@github.com/a/b"),
            begin(url="file:///etc/passwd"),
            begin(url="https://github.com/a/.."),
            begin(url="https://github.com/"),
            begin(url="https://github.com./a/b"),
            begin(url="https://github.com\\.b.example/a/b"),
            begin(url="--upload-pack=x"),
            begin(mount_path="/a/../etc"),
            begin(mount_path="/"),
            begin(checkout={"type": "branch", "name": "--orphan"}),
            begin(checkout={"type": "branch", "name": "a b"}),
            begin(checkout={"type": "commit", "sha": "abc"}),
            begin(authorization_token=["gh-verysecret"]),
            begin(authorization_token="gh-verysecret" * 1000),
            begin(token="gh-verysecret"),
        ]
        assert {answer.status_code for answer in wrong} == {400}
        assert not any("verysecret" in answer.text for answer in wrong)
        twice = {"type": "github_repository", "url": "https://github.com/a/b"}
        assert http.post("/v1/sessions", json={"agent": agent, "resources": [twice, twice]}).status_code == 400
        made = begin(authorization_token=TOKEN, mount_path=None)
        assert "verysecret" not in made.text
        of, [resource] = made.json()["id"], made.json()["resources"]
        path = f"/v1/sessions/{of}/resources/{resource['id']}"
        assert "verysecret" not in http.get(path).text + http.get(f"/v1/sessions/{of}").text
        assert http.post(path, json={"authorization_token": ""}).status_code == 400
        file = http.post("/v1/files", files={"file": ("a.txt", b"x", "text/plain")}).json()["id"]
        other = http.post(f"/v1/sessions/{of}/resources", json={"type": "file", "file_id": file}).json()["id"]
        no_token = http.post(f"/v1/sessions/{of}/resources/{other}", json={"authorization_token": "t"})
        assert no_token.status_code == 400
        with control.http(control.another_tenant()) as stranger:
            assert stranger.post(path, json={"authorization_token": "theirs"}).status_code == 404
        assert http.post(path, json={"authorization_token": "t"}).status_code == 200
        http.post(f"/v1/sessions/{of}/archive")
        assert http.post(path, json={"authorization_token": "t"}).status_code == 409
        deployment = {"agent": agent, "name": "d", "initial_events": [said("go")], "resources": [twice]}
        assert http.post("/v1/deployments", json=deployment).status_code == 501
