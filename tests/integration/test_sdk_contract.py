"""Every method that the `anthropic` SDK has for Managed Agents: served and parsed strictly, or 501 and in the docs."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anthropic
import pytest

from support.control_plane import ControlPlane

ELSEWHERE = {"messages", "models", "organization"}
"""The gateway's own routes, and the administration of Anthropic's accounts."""
LOCAL = {"beta.webhooks.parse_unverified", "beta.webhooks.unwrap"}
"""Methods that send nothing."""
FOR_WORKERS = {
    "beta.environments.work.poller",
    "beta.environments.work.worker",
    "beta.sessions.events.tool_runner",
}
"""Methods of the asynchronous SDK alone that are made of others."""
DOCUMENT = Path(__file__).parents[2] / "docs" / "compatibility.md"
NAME = re.compile(r"`(beta\.[a-z_.]+)`")


def resources(one: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the resources below one, and it."""
    yield name, one
    for attribute in sorted(dir(type(one))):
        if attribute.startswith(("_", "with_")) or (name == "beta" and attribute in ELSEWHERE):
            continue
        if not inspect.isfunction(inspect.getattr_static(type(one), attribute)):
            yield from resources(getattr(one, attribute), f"{name}.{attribute}")


def methods(sdk: Any) -> dict[str, Callable[..., Any]]:
    """Return the SDK's methods by their names."""
    return {
        f"{name}.{attribute}": getattr(one, attribute)
        for name, one in resources(sdk.beta, "beta")
        for attribute in dir(type(one))
        if not attribute.startswith(("_", "with_")) and inspect.isfunction(inspect.getattr_static(type(one), attribute))
    }


def listed() -> set[str]:
    """Return the methods that the docs say are not served."""
    rows = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("| `beta.")]
    return {name for row in rows for name in NAME.findall(row)}


ALL = methods(anthropic.Anthropic(api_key="none"))


def test_the_docs_name_methods_that_there_are() -> None:
    assert listed() <= set(ALL)
    assert len(ALL) > 90


def test_both_sdks_have_the_same_methods() -> None:
    assert set(methods(anthropic.AsyncAnthropic(api_key="none"))) - set(ALL) == FOR_WORKERS


@contextmanager
def recorded(sdk: anthropic.Anthropic) -> Iterator[set[str]]:
    """Note which methods are called and return, as long as the block runs."""
    called: set[str] = set()

    def noting(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            answer = method(*args, **kwargs)
            called.add(name)
            return answer

        return call

    for name, one in resources(sdk.beta, "beta"):
        for attribute in dir(type(one)):
            if f"{name}.{attribute}" in ALL:
                setattr(one, attribute, noting(f"{name}.{attribute}", getattr(one, attribute)))
    yield called


def test_every_method_is_served_or_listed(control: ControlPlane) -> None:
    sdk = anthropic.Anthropic(
        base_url=control.base_url, api_key=control.key, max_retries=0, timeout=20, _strict_response_validation=True
    )
    with recorded(sdk) as called:
        agent = agents(sdk)
        environments(sdk, agent)
        memory(sdk)
        file = files(sdk)
        vault = vaults(sdk)
        sessions(sdk, agent, file, vault)
        deployments(sdk, agent, file)
    assert called | listed() | LOCAL == set(ALL), "neither called nor listed in docs/compatibility.md"
    assert called & listed() == set(), "served, and listed as not served"


@pytest.mark.parametrize("name", sorted(listed()))
def test_what_is_listed_says_501_with_its_name(plane: ControlPlane, name: str) -> None:
    call = methods(plane.sdk())[name]
    wanted = {
        parameter.name: "x"
        for parameter in inspect.signature(call).parameters.values()
        if parameter.default is inspect.Parameter.empty
    }
    if "files" in wanted:
        wanted["files"] = [("a.txt", b"x")]  # type: ignore[assignment]
    with pytest.raises(anthropic.APIStatusError) as refused:
        call(**wanted)
    assert refused.value.status_code == 501, refused.value.message
    assert refused.value.body["error"]["code"] == "not_served"  # type: ignore[index]


def agents(sdk: anthropic.Anthropic) -> str:
    made = sdk.beta.agents.create(name="support", model="m", betas=["managed-agents-2026-04-01"])
    assert re.fullmatch(r"agent_[0-9a-f]{32}", made.id)
    assert sdk.beta.agents.update(made.id, version=1, system="Help.").version == 2
    assert sdk.beta.agents.retrieve(made.id, version=1).system is None
    assert [one.version for one in sdk.beta.agents.versions.list(made.id)] == [2, 1]
    other = sdk.beta.agents.create(name="other", model="m")
    assert [one.id for one in sdk.beta.agents.list(limit=1)] == [other.id, made.id]
    assert sdk.beta.agents.archive(other.id).archived_at is not None
    return made.id


def environments(sdk: anthropic.Anthropic, agent: str) -> None:
    made = sdk.beta.environments.create(
        name="sandbox",
        description="For tests.",
        config={
            "type": "cloud",
            "networking": {"type": "limited", "allowed_hosts": ["example.com"]},
            "packages": {"pip": ["numpy"]},
        },
        metadata={"team": "care"},
    )
    assert re.fullmatch(r"env_[0-9a-f]{32}", made.id)
    assert made.config.type == "cloud"
    assert made.config.networking.type == "limited"
    assert (made.config.networking.allowed_hosts, made.config.networking.allow_mcp_servers) == (["example.com"], False)
    assert (made.config.packages.pip, made.config.packages.apt) == (["numpy"], [])
    after = sdk.beta.environments.update(made.id, name="box", metadata={"team": None, "tier": "1"})
    assert (after.name, after.description, after.metadata, after.config) == (
        "box",
        "For tests.",
        {"tier": "1"},
        made.config,
    )
    assert sdk.beta.environments.retrieve(made.id) == after
    assert [one.name for one in sdk.beta.environments.list(limit=1)] == ["box", "default"]
    with pytest.raises(anthropic.ConflictError, match="already"):
        sdk.beta.environments.create(name="box")
    session = sdk.beta.sessions.create(agent=agent, environment_id=made.id)
    assert session.environment_id == made.id
    with pytest.raises(anthropic.ConflictError, match="sessions"):
        sdk.beta.environments.delete(made.id)
    assert sdk.beta.environments.archive(made.id).archived_at is not None
    with pytest.raises(anthropic.ConflictError, match="archived"):
        sdk.beta.sessions.create(agent=agent, environment_id=made.id)
    sdk.beta.sessions.delete(session.id)
    assert sdk.beta.environments.delete(made.id).type == "environment_deleted"
    for gone in (made.id, "env_nothing"):
        with pytest.raises(anthropic.NotFoundError):
            sdk.beta.sessions.create(agent=agent, environment_id=gone)
    (default,) = sdk.beta.environments.list()
    with pytest.raises(anthropic.ConflictError, match="cannot be changed"):
        sdk.beta.environments.update(default.id, name="mine")


def memory(sdk: anthropic.Anthropic) -> None:
    stores = sdk.beta.memory_stores
    store = stores.create(name="Facts", description="What holds.")
    assert stores.update(store.id, name="Truths").name == "Truths"
    assert stores.retrieve(store.id).name == "Truths"
    assert [one.id for one in stores.list()] == [store.id]
    first = stores.memories.create(store.id, path="/a.md", content="one")
    stores.memories.create(store.id, path="/b.md", content="two")
    changed = stores.memories.update(
        first.id,
        memory_store_id=store.id,
        content="uno",
        precondition={"type": "content_sha256", "content_sha256": first.content_sha256},
    )
    assert stores.memories.retrieve(first.id, memory_store_id=store.id).content == "uno"
    assert [one.path for one in stores.memories.list(store.id)] == ["/a.md", "/b.md"]
    versions = list(stores.memory_versions.list(store.id, memory_id=first.id))
    assert len(versions) == 2
    assert stores.memory_versions.retrieve(versions[1].id, memory_store_id=store.id).operation == "created"
    assert stores.memory_versions.redact(versions[1].id, memory_store_id=store.id).redacted_at is not None
    assert stores.memories.delete(changed.id, memory_store_id=store.id).type == "memory_deleted"
    assert stores.archive(store.id).archived_at is not None
    assert stores.delete(store.id).type == "memory_store_deleted"


def files(sdk: anthropic.Anthropic) -> str:
    content = bytes(range(256)) * 4 * 1024 + b"end"
    made = sdk.beta.files.upload(file=("naïve.bin", content, "application/x-thing"))
    assert re.fullmatch(r"file_[0-9a-f]{32}", made.id)
    assert (made.filename, made.mime_type, made.size_bytes) == ("naïve.bin", "application/x-thing", len(content))
    other = sdk.beta.files.upload(file=("b.txt", b"", "text/plain"), expires_in_seconds=3600)
    assert other.expires_at is not None
    assert [one.id for one in sdk.beta.files.list(limit=1)] == [other.id, made.id]
    assert [one.id for one in sdk.beta.files.list(ids=[made.id])] == [made.id]
    assert list(sdk.beta.files.list(scope_id="sesn_" + "0" * 32)) == []
    assert sdk.beta.files.retrieve_metadata(made.id) == made
    assert sdk.beta.files.download(made.id).read() == content
    assert sdk.beta.files.download(other.id).read() == b""
    assert sdk.beta.files.delete(other.id).type == "file_deleted"
    with pytest.raises(anthropic.NotFoundError):
        sdk.beta.files.retrieve_metadata(other.id)
    return made.id


def vaults(sdk: anthropic.Anthropic) -> str:
    vault = sdk.beta.vaults.create(display_name="Ada", metadata={"user": "7"})
    assert re.fullmatch(r"vlt_[0-9a-f]{32}", vault.id)
    assert sdk.beta.vaults.update(vault.id, display_name="Ada L.", metadata={"user": "8"}).metadata == {"user": "8"}
    assert sdk.beta.vaults.retrieve(vault.id).display_name == "Ada L."
    keep = sdk.beta.vaults.credentials
    oauth = keep.create(
        vault.id,
        display_name="CRM",
        auth={
            "type": "mcp_oauth",
            "mcp_server_url": "https://crm.example.com/mcp",
            "access_token": "at-1",
            "expires_at": "2099-01-01T00:00:00Z",
            "refresh": {
                "client_id": "c",
                "refresh_token": "rt-1",
                "token_endpoint": "https://crm.example.com/token",
                "token_endpoint_auth": {"type": "client_secret_post", "client_secret": "cs-1"},
            },
        },
    )
    assert re.fullmatch(r"vcrd_[0-9a-f]{32}", oauth.id)
    bearer = keep.create(
        vault.id, auth={"type": "static_bearer", "mcp_server_url": "https://wiki.example.com/mcp", "token": "tk-1"}
    )
    variable = keep.create(
        vault.id,
        auth={
            "type": "environment_variable",
            "secret_name": "API_KEY",
            "secret_value": "sv-1",
            "networking": {"type": "limited", "allowed_hosts": ["api.example.com"]},
        },
    )
    assert variable.auth.type == "environment_variable"
    assert variable.auth.injection_location.header
    with pytest.raises(anthropic.ConflictError, match="already"):
        keep.create(
            vault.id, auth={"type": "static_bearer", "mcp_server_url": "https://wiki.example.com/mcp", "token": "tk-2"}
        )
    renewed = keep.update(
        oauth.id,
        vault_id=vault.id,
        auth={"type": "mcp_oauth", "access_token": "at-2", "refresh": {"refresh_token": "rt-2", "scope": "all"}},
    )
    assert renewed.auth.type == "mcp_oauth"
    assert renewed.auth.refresh is not None
    tried = keep.mcp_oauth_validate(oauth.id, vault_id=vault.id)
    assert (tried.type, tried.status, tried.has_refresh_token) == ("vault_credential_validation", "unknown", True)
    assert (renewed.auth.refresh.scope, renewed.auth.refresh.token_endpoint_auth.type) == ("all", "client_secret_post")
    with pytest.raises(anthropic.BadRequestError, match="of type"):
        keep.update(bearer.id, vault_id=vault.id, auth={"type": "mcp_oauth", "access_token": "x"})
    assert keep.retrieve(bearer.id, vault_id=vault.id).auth.type == "static_bearer"
    assert [one.id for one in keep.list(vault.id, limit=2)] == [variable.id, bearer.id, oauth.id]
    assert keep.archive(bearer.id, vault_id=vault.id).archived_at is not None
    assert keep.delete(variable.id, vault_id=vault.id).type == "vault_credential_deleted"
    assert [one.id for one in keep.list(vault.id)] == [oauth.id]
    other = sdk.beta.vaults.create(display_name="Gone")
    assert [one.id for one in sdk.beta.vaults.list(limit=1)] == [other.id, vault.id]
    assert sdk.beta.vaults.archive(other.id).archived_at is not None
    assert sdk.beta.vaults.delete(other.id).type == "vault_deleted"
    return vault.id


def sessions(sdk: anthropic.Anthropic, agent: str, file: str, vault: str) -> None:
    store = sdk.beta.memory_stores.create(name="Facts")
    session = sdk.beta.sessions.create(
        agent=agent,
        environment_id="default",
        vault_ids=[vault],
        resources=[
            {"type": "memory_store", "memory_store_id": store.id, "access": "read_only"},
            {"type": "file", "file_id": file, "mount_path": "/data/a.bin"},
            {
                "type": "github_repository",
                "url": "https://github.com/a/b",
                "authorization_token": "t",
                "checkout": {"type": "branch", "name": "main"},
            },
        ],
        initial_events=[{"type": "user.message", "content": [{"type": "text", "text": "Hello."}]}],
    )
    assert re.fullmatch(r"sesn_[0-9a-f]{32}", session.id)
    assert session.vault_ids == [vault]
    assert sdk.beta.sessions.update(session.id, title="A case").title == "A case"
    assert sdk.beta.sessions.retrieve(session.id).title == "A case"
    assert [one.id for one in sdk.beta.sessions.list(order="asc", statuses=["running"])] == [session.id]

    attached = sdk.beta.sessions.resources
    added = attached.add(session.id, file_id=file, type="file")
    assert added.mount_path == f"/mnt/session/uploads/{file}"
    kinds = [one.type for one in attached.list(session.id, limit=2)]
    assert kinds == ["memory_store", "file", "github_repository", "file"]
    repository = next(one for one in session.resources if one.type == "github_repository")
    assert repository.mount_path == "/workspace/b"
    assert repository.checkout is not None
    assert repository.checkout.type == "branch"
    assert attached.update(repository.id, session_id=session.id, authorization_token="u").type == repository.type
    assert attached.delete(repository.id, session_id=session.id).type == "session_resource_deleted"
    assert attached.retrieve(added.id, session_id=session.id) == added
    assert attached.delete(added.id, session_id=session.id).type == "session_resource_deleted"
    assert attached.delete(store.id, session_id=session.id).id == store.id
    assert [one.type for one in attached.list(session.id)] == ["file"]
    with pytest.raises(anthropic.NotFoundError, match="no resource"):
        attached.retrieve(added.id, session_id=session.id)

    sdk.beta.sessions.events.send(session.id, events=[{"type": "user.interrupt"}])
    types = [one.type for one in sdk.beta.sessions.events.list(session.id)]
    assert types == ["user.message", "session.status_running", "session.updated", "user.interrupt"]
    (thread,) = sdk.beta.sessions.threads.list(session.id)
    assert re.fullmatch(r"sthr_[0-9a-f]{32}", thread.id)
    assert thread.status == "running"
    assert list(sdk.beta.sessions.threads.list(session.id, statuses=["idle"])) == []
    assert sdk.beta.sessions.threads.retrieve(thread.id, session_id=session.id).session_id == session.id
    said = sdk.beta.sessions.threads.events.list(thread.id, session_id=session.id)
    assert [one.type for one in said] == types
    for stream in (
        sdk.beta.sessions.events.stream(session.id, event_deltas=["agent.message"], extra_query={"after": "0"}),
        sdk.beta.sessions.threads.events.stream(thread.id, session_id=session.id, extra_query={"after": "0"}),
    ):
        with stream:
            assert [next(stream).type for _ in types] == types
    assert sdk.beta.sessions.archive(session.id).archived_at is not None
    assert sdk.beta.sessions.delete(session.id).type == "session_deleted"


def deployments(sdk: anthropic.Anthropic, agent: str, file: str) -> None:
    say: Any = [{"type": "user.message", "content": [{"type": "text", "text": "Report."}]}]
    made = sdk.beta.deployments.create(
        agent=agent,
        environment_id="default",
        name="weekly",
        description="Each Monday.",
        initial_events=say,
        metadata={"user_id": "ada"},
        resources=[{"type": "file", "file_id": file}],
        schedule={"type": "cron", "expression": "0 9 * * 1", "timezone": "Europe/Berlin"},
        budget={"type": "limit", "max_list_cost": {"amount": "250", "currency": "USD"}},
    )
    assert re.fullmatch(r"depl_[0-9a-f]{32}", made.id)
    assert (made.status, made.agent.version) == ("active", 2)
    assert made.schedule is not None
    assert made.schedule.upcoming_runs_at is not None
    assert len(made.schedule.upcoming_runs_at) == 5
    assert all(moment.weekday() == 0 for moment in made.schedule.upcoming_runs_at)
    after = sdk.beta.deployments.update(made.id, name="monthly", description=None, metadata={"team": "care"})
    assert (after.name, after.description, after.metadata) == ("monthly", None, {"user_id": "ada", "team": "care"})
    assert sdk.beta.deployments.retrieve(made.id).name == "monthly"
    other = sdk.beta.deployments.create(agent=agent, environment_id="default", name="by hand", initial_events=say)
    assert [one.id for one in sdk.beta.deployments.list(limit=1)] == [other.id, made.id]
    paused = sdk.beta.deployments.pause(made.id)
    assert paused.paused_reason is not None
    assert (paused.status, paused.paused_reason.type) == ("paused", "manual")
    assert [one.id for one in sdk.beta.deployments.list(status="paused")] == [made.id]
    assert sdk.beta.deployments.unpause(made.id).paused_reason is None
    run = sdk.beta.deployments.run(made.id)
    assert re.fullmatch(r"drun_[0-9a-f]{32}", run.id)
    assert (run.error, run.trigger_context.type) == (None, "manual")
    assert run.session_id is not None
    session = sdk.beta.sessions.retrieve(run.session_id)
    assert (session.deployment_id, session.status, session.title) == (made.id, "running", "monthly")
    assert [one.type for one in session.resources] == ["file"]
    assert after.budget is not None
    assert after.budget.max_list_cost.amount == "250"
    assert session.budget == after.budget == made.budget
    assert [one.id for one in sdk.beta.sessions.list(deployment_id=made.id)] == [session.id]
    sdk.beta.files.delete(file)
    failed = sdk.beta.deployments.run(made.id)
    assert failed.error is not None
    assert (failed.session_id, failed.error.type) == (None, "file_not_found_error")
    assert [one.id for one in sdk.beta.deployment_runs.list(deployment_id=made.id, limit=1)] == [failed.id, run.id]
    assert [one.id for one in sdk.beta.deployment_runs.list(has_error=True)] == [failed.id]
    assert list(sdk.beta.deployment_runs.list(trigger_type="schedule")) == []
    assert sdk.beta.deployment_runs.retrieve(run.id) == run
    archived = sdk.beta.deployments.archive(made.id)
    assert archived.archived_at is not None
    assert archived.schedule is not None
    assert archived.schedule.upcoming_runs_at == []
    with pytest.raises(anthropic.ConflictError, match="archived"):
        sdk.beta.deployments.run(made.id)


def test_updates_may_come_as_patch(plane: ControlPlane) -> None:
    with plane.http() as http:

        def made(path: str, **body: Any) -> str:
            answer = http.post(path, json=body)
            assert answer.status_code == 200, answer.text
            return f"{path}/{answer.json()['id']}"

        agent = made("/v1/agents", name="patched")
        vault = made("/v1/vaults", display_name="patched")
        token = {"type": "static_bearer", "mcp_server_url": "https://a.example", "token": "t"}
        for path in (
            agent,
            made("/v1/environments", name="patched"),
            made("/v1/sessions", agent="patched"),
            made("/v1/memory_stores", name="patched"),
            made(
                "/v1/deployments",
                agent="patched",
                name="patched",
                initial_events=[{"type": "user.message", "content": [{"type": "text", "text": "Go."}]}],
            ),
            vault,
            made(f"{vault}/credentials", auth=token),
        ):
            answer = http.patch(path, json={"metadata": {"by": "patch"}})
            assert answer.status_code == 200, answer.text
            assert answer.json()["metadata"] == {"by": "patch"}, path
