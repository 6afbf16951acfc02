"""What the client has of the control plane beside memory: each method, from both kinds of programs."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.control_plane import ControlPlane
from trunkline import AsyncTrunkline, Conflict, InvalidRequest, NotFound, SetupError, Trunkline, Unauthenticated

pytestmark = pytest.mark.tenant

AGENT = {"name": "helper", "model": "test"}


class Awaited:
    """An asynchronous client as a synchronous program sees it."""

    def __init__(self, runner: asyncio.Runner, one: Any) -> None:
        self._runner = runner
        self._one = one

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._one, name)
        return found if isinstance(found, str) else Awaited(self._runner, found)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        found = self._one(*args, **kwargs)
        if inspect.isasyncgen(found):
            return self._runner.run(self._all(found))
        return self._runner.run(found)

    @staticmethod
    async def _all(found: Any) -> list[Any]:
        return [item async for item in found]


@pytest.fixture(params=["sync", "async"])
def client(control: ControlPlane, request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "sync":
        with Trunkline(control.base_url, control.key) as made:
            yield made
        return
    with asyncio.Runner() as runner:
        made_async = AsyncTrunkline(control.base_url, control.key)
        yield Awaited(runner, made_async)
        runner.run(made_async.close())


def ids(items: Any) -> list[str]:
    return [item.id for item in items]


def test_sessions_live(client: Any) -> None:
    agent = client.agents.apply(AGENT)
    session = client.sessions.create("helper", user_id="ada", title="A case", metadata={"ticket": "7"})
    assert (session.agent["id"], session.user_id, session.title) == (agent.id, "ada", "A case")
    changed = client.sessions.update(session.id, title="Another", metadata={"ticket": None, "desk": "2"})
    assert (changed.title, changed.metadata) == ("Another", {"desk": "2"})
    message = {"type": "user.message", "content": [{"type": "text", "text": "Hello"}]}
    [sent] = client.sessions.send(session.id, message)
    assert sent.text() == "Hello"
    assert sent.id in ids(client.sessions.events(session.id))
    assert client.sessions.get(session.id).last_seq >= sent.seq
    fork = client.sessions.fork(session.id, at=sent.seq, title="From there")
    assert (fork.parent_id, fork.title) == (session.id, "From there")
    assert set(ids(client.sessions.list(agent_id=agent.id))) == {session.id, fork.id}
    client.sessions.delete(fork.id)
    with pytest.raises(NotFound):
        client.sessions.get(fork.id)
    idle = client.sessions.create("helper")
    assert client.sessions.archive(idle.id).archived_at is not None
    with pytest.raises(NotFound):
        client.sessions.create("nobody")
    with pytest.raises(InvalidRequest):
        client.sessions.send(session.id, {"type": "user.nonsense"})


async def test_a_stream_tells_what_comes_and_ends_with_the_session(control: ControlPlane) -> None:
    async with AsyncTrunkline(control.base_url, control.key) as client:
        await client.agents.apply(AGENT)
        session = await client.sessions.create("helper")
        message = {"type": "user.message", "content": [{"type": "text", "text": "Hello"}]}
        [sent] = await client.sessions.send(session.id, message)
        found = []
        async for event in client.sessions.stream(session.id, after=0):
            found.append(event)
            if event.id == sent.id:
                await client.sessions.delete(session.id)
        assert found[-1].type == "session.deleted"
        with pytest.raises(NotFound):
            await anext(client.sessions.stream(session.id))


def test_files_and_resources_of_sessions(client: Any, tmp_path: Path) -> None:
    client.agents.apply(AGENT)
    (tmp_path / "notes.txt").write_text("kept")
    file = client.files.upload(tmp_path / "notes.txt")
    assert (file.filename, file.mime_type, file.size_bytes) == ("notes.txt", "text/plain", 4)
    other = client.files.upload(b"\x00\x01", name="raw")
    assert client.files.download(other.id) == b"\x00\x01"
    assert ids(client.files.list()) == [other.id, file.id]
    assert client.files.get(file.id) == file
    for wrong in (b"nameless", tmp_path / "nowhere"):
        with pytest.raises(SetupError):
            client.files.upload(wrong)
    session = client.sessions.create("helper")
    store = client.memory_stores.create("shared")
    attached = client.sessions.resources.add_file(session.id, file.id, mount_path="/notes.txt")
    assert (attached.file_id, attached.mount_path) == (file.id, "/notes.txt")
    read = client.sessions.resources.add_store(session.id, store, access="read_only")
    assert (read.memory_store_id, read.access) == (store, "read_only")
    assert {found.type for found in client.sessions.resources.list(session.id)} == {"file", "memory_store"}
    assert client.sessions.resources.get(session.id, attached.id).mount_path == "/notes.txt"
    client.sessions.resources.remove(session.id, attached.id)
    with pytest.raises(NotFound):
        client.sessions.resources.get(session.id, attached.id)
    client.files.delete(other.id)
    with pytest.raises(NotFound):
        client.files.download(other.id)


def test_environments(client: Any) -> None:
    made = client.environments.create("quiet", config={"type": "cloud", "networking": {"type": "limited"}})
    assert made.config["networking"]["type"] == "limited"
    assert client.environments.update(made.id, description="No network").description == "No network"
    assert client.environments.get(made.id).name == "quiet"
    assert made.id in ids(client.environments.list())
    with pytest.raises(Conflict):
        client.environments.create("quiet")
    other = client.environments.create("gone")
    assert client.environments.archive(other.id).archived_at is not None
    assert other.id not in ids(client.environments.list())
    assert other.id in ids(client.environments.list(include_archived=True))
    client.environments.delete(made.id)
    with pytest.raises(NotFound):
        client.environments.get(made.id)


def test_deployments_and_their_runs(client: Any) -> None:
    client.agents.apply(AGENT)
    daily = {"type": "cron", "expression": "0 9 * * *", "timezone": "Europe/Berlin"}
    made = client.deployments.create("helper", "report", say="Write the report.", schedule=daily)
    assert made.schedule["upcoming_runs_at"]
    assert made.initial_events[0]["content"][0]["text"] == "Write the report."
    assert client.deployments.pause(made.id).status == "paused"
    assert client.deployments.unpause(made.id).status == "active"
    assert client.deployments.update(made.id, name="digest").name == "digest"
    run = client.deployments.run(made.id)
    assert client.sessions.get(run.session_id).id == run.session_id
    assert ids(client.deployments.runs(made.id)) == [run.id]
    assert client.deployments.get_run(run.id) == run
    assert ids(client.deployments.runs(has_error=True)) == []
    assert ids(client.deployments.list()) == [made.id]
    assert client.deployments.archive(made.id).archived_at is not None
    assert client.deployments.get(made.id).archived_at is not None


def test_vaults_and_credentials(client: Any) -> None:
    vault = client.vaults.create("Ada's", metadata={"user": "ada"})
    assert client.vaults.update(vault.id, display_name="Ada").display_name == "Ada"
    assert client.vaults.get(vault.id).metadata == {"user": "ada"}
    assert ids(client.vaults.list()) == [vault.id]
    auth = {"type": "static_bearer", "mcp_server_url": "https://wiki.example.com/mcp", "token": "tk-verysecret"}
    made = client.vaults.credentials.create(vault.id, auth, display_name="wiki")
    assert "verysecret" not in str(made.to_json())
    assert client.vaults.credentials.get(vault.id, made.id).display_name == "wiki"
    changed = client.vaults.credentials.update(vault.id, made.id, display_name="Wiki")
    assert changed.display_name == "Wiki"
    assert ids(client.vaults.credentials.list(vault.id)) == [made.id]
    assert client.vaults.credentials.archive(vault.id, made.id).archived_at is not None
    client.vaults.credentials.delete(vault.id, made.id)
    with pytest.raises(NotFound):
        client.vaults.credentials.get(vault.id, made.id)
    assert client.vaults.archive(vault.id).archived_at is not None
    client.vaults.delete(vault.id)
    with pytest.raises(NotFound):
        client.vaults.get(vault.id)


def test_webhooks(client: Any) -> None:
    made = client.webhooks.create("https://a.example/hook", events=["session.requires_action"])
    assert made.secret.startswith("whsec_")
    assert made.secret not in repr(made)
    rotated = client.webhooks.rotate_secret(made.id, overlap_seconds=60)
    assert rotated.secret not in (made.secret, repr(rotated))
    assert 0 < (rotated.previous_secret_expires_at - rotated.updated_at).total_seconds() <= 60
    assert client.webhooks.update(made.id, events=None).events is None
    assert client.webhooks.get(made.id).url == "https://a.example/hook"
    assert ids(client.webhooks.list()) == [made.id]
    assert list(client.webhooks.deliveries(made.id)) == []
    client.webhooks.delete(made.id)
    with pytest.raises(NotFound):
        client.webhooks.get(made.id)


def test_keys_teams_and_users(client: Any, control: ControlPlane) -> None:
    made = client.keys.create("desk", scopes=["inference"], tools=["bash"], stores=[{"scope": "user"}], budget_usd=5)
    assert made.tools == ("bash",)
    changed = client.keys.update(made.id, name="counter", rpm=10, budget_usd=None)
    assert (changed.name, changed.rpm, changed.budget_usd) == ("counter", 10, None)
    assert client.keys.get(made.id).name == "counter"
    assert made.id in ids(client.keys.list())
    client.keys.revoke(made.id)
    with pytest.raises(Unauthenticated):
        Trunkline(control.base_url, made.key).keys.list()
    team = client.teams.create("crew", budget_usd=50, users={"rpm": 2})
    assert client.teams.update("crew", tpm=10).tpm == 10
    assert ids(client.teams.list()) == [team.id]
    assert client.teams.get("crew").users.rpm == 2
    assert client.teams.archive(team.id).archived_at is not None
    assert client.users.set_limits("ada", parallel=1).parallel == 1
    assert [found.user_id for found in client.users.limits()] == ["ada"]
    client.users.remove_limits("ada")


def test_agents_have_versions_and_changes_are_told(client: Any) -> None:
    agent = client.agents.apply(AGENT)
    changed = client.agents.update("helper", version=1, system="You are terse.")
    assert (changed.version, changed.system) == (2, "You are terse.")
    with pytest.raises(Conflict):
        client.agents.update("helper", version=1, system="You are not.")
    assert [version.version for version in client.agents.versions("helper")] == [2, 1]
    entries = list(client.audit_log(resource_type="agent", resource_id=agent.id))
    assert len(entries) == 2
    assert client.usage().requests == 0
    assert list(client.usage_by("model")) == []
    assert client.erase(user_id="ada").kind


def test_stores_are_listed_changed_and_archived(client: Any) -> None:
    store = client.memory_stores.create("shared", description="For all")
    assert client.memory_stores.update(store, name="common", expire_after_days=3).name == "common"
    assert client.memory_stores.get(store).description == "For all"
    assert store in ids(client.memory_stores.list())
    assert client.memory_stores.archive(store).archived_at is not None
    assert store not in ids(client.memory_stores.list())
    client.memory_stores.delete(store)


def test_blocks_are_written_and_read(client: Any) -> None:
    fields = {"name": {"type": "string"}}
    block = {"scope": "user", "description": "Who it is.", "fields": fields}
    client.agents.apply({**AGENT, "memory": {"blocks": {"customer": block}}})
    named = [{"op": "set", "field": "name", "value": "Ada"}]
    assert client.memory.operations("helper", "customer", named, user_id="ada").value == {"name": "Ada"}
    assert [found.value for found in client.memory.get("helper", user_id="ada")] == [{"name": "Ada"}]
    assert [version.version for version in client.memory.history("helper", "customer", user_id="ada")] == [1]


def test_memories_and_their_versions(client: Any) -> None:
    store = client.memory_stores.create("shared")
    memories, versions = client.memory_stores.memories, client.memory_stores.versions
    first = memories.create(store, "/notes/kettle.md", "It is red.")
    with pytest.raises(Conflict):
        memories.create(store, "/notes/kettle.md", "Another.")
    written = memories.update(store, first.id, content="It is green.", expect_sha256=first.content_sha256)
    with pytest.raises(Conflict):
        memories.update(store, first.id, content="It is blue.", expect_sha256=first.content_sha256)
    assert memories.get(store, first.id).content == "It is green."
    assert [found.content for found in memories.list(store, contents=True)] == ["It is green."]
    assert [(found.type, found.path) for found in memories.list(store, depth=1)] == [("memory_prefix", "/notes/")]
    newest, oldest = versions.list(store, memory_id=first.id)
    assert (newest.version, oldest.version) == (2, 1)
    assert versions.diff(store, newest.id)
    assert versions.restore(store, oldest.id).content_sha256 == first.content_sha256
    assert versions.redact(store, newest.id).redacted_at is not None
    assert versions.get(store, newest.id).content is None
    with pytest.raises(Conflict):
        memories.delete(store, first.id, expect_sha256=written.content_sha256)
    memories.delete(store, first.id)
    assert list(memories.list(store)) == []


def test_retention_erasures_and_bodies(client: Any) -> None:
    assert client.retention().sessions is None
    assert client.keep(events="90d").events == "90d"
    assert client.retention().events == "90d"
    with pytest.raises(InvalidRequest):
        client.keep(events="soon")
    erased = client.erase(user_id="ada")
    assert ids(client.erasures(user_id="ada")) == [erased.id]
    assert list(client.erasures(user_id="eve")) == []
    for act in (client.bodies.get, client.bodies.redact, client.bodies.delete):
        with pytest.raises(NotFound):
            act("call_" + "0" * 32)
