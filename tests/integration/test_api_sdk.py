"""The unmodified `anthropic` SDK against the control plane; every answer must parse strictly as the SDK's own type."""

from __future__ import annotations

from typing import Any

import anthropic
import pydantic
import pytest
from anthropic.types.beta import (
    BetaEnvironment,
    BetaManagedAgentsAgent,
    BetaManagedAgentsDeletedSession,
    BetaManagedAgentsSession,
)
from anthropic.types.beta.sessions import (
    BetaManagedAgentsSendSessionEvents,
    BetaManagedAgentsSessionEvent,
    BetaManagedAgentsSessionResource,
)

from support.control_plane import ControlPlane

pytestmark = pytest.mark.tenant

TOOLS: list[Any] = [
    {
        "type": "agent_toolset_20260401",
        "default_config": {"permission_policy": {"type": "always_ask"}},
        "configs": [
            {"name": "bash", "enabled": False},
            {"name": "web_fetch", "permission_policy": {"type": "always_allow"}, "allowed_domains": ["example.com"]},
        ],
    },
    {"type": "mcp_toolset", "mcp_server_name": "crm", "configs": [{"name": "find"}]},
    {
        "type": "custom",
        "name": "refund",
        "description": "Refund an order.",
        "input_schema": {"type": "object", "properties": {"order": {"type": "string"}}, "required": ["order"]},
    },
]


def strictly(kind: Any, answer: Any) -> None:
    """Validate the JSON that was sent, strictly: no coercion, no missing member, unions by their discriminator."""
    text = answer if isinstance(answer, str | bytes) else answer.to_json()
    pydantic.TypeAdapter(kind).validate_json(text, strict=True)


def body_of(control: ControlPlane, path: str, **params: Any) -> bytes:
    with control.http() as http:
        answer = http.get(path, params=params)
    assert answer.status_code == 200, answer.text
    return answer.content


def test_an_agent_lives_through_the_sdk(control: ControlPlane) -> None:
    sdk = control.sdk()
    agent = sdk.beta.agents.create(
        name="support",
        model={"id": "claude-sonnet", "effort": "high", "speed": "fast"},
        system="You help.",
        description="Helps.",
        tools=TOOLS,
        mcp_servers=[{"type": "url", "name": "crm", "url": "https://crm.example.com/mcp"}],
        metadata={"team": "care"},
    )
    strictly(BetaManagedAgentsAgent, body_of(control, f"/v1/agents/{agent.id}"))
    assert (agent.version, agent.model.id, agent.system, agent.metadata) == (
        1,
        "claude-sonnet",
        "You help.",
        {"team": "care"},
    )
    toolset = agent.tools[0]
    assert toolset.type == "agent_toolset_20260401"
    bash, web = toolset.configs
    assert (bash.enabled, bash.permission_policy.type) == (False, "always_ask")
    assert (web.enabled, web.permission_policy.type) == (True, "always_allow")
    assert agent.tools[1].type == "mcp_toolset"
    assert agent.tools[1].default_config.permission_policy.type == "always_ask"

    updated = sdk.beta.agents.update(
        agent.id, version=1, system="You help well.", description=None, metadata={"team": None, "tier": "1"}
    )
    assert (updated.version, updated.system, updated.description) == (2, "You help well.", None)
    assert updated.metadata == {"tier": "1"}
    assert updated.tools == agent.tools
    with pytest.raises(anthropic.ConflictError) as refused:
        sdk.beta.agents.update(agent.id, version=1, system="Too late.")
    assert refused.value.body["error"]["current_version"] == 2  # type: ignore[index]
    assert "not 1" in refused.value.message
    assert sdk.beta.agents.update(agent.id, system="You help well.").version == 2, "nothing differs: no version"

    assert sdk.beta.agents.retrieve(agent.id).version == 2
    assert sdk.beta.agents.retrieve(agent.id, version=1).system == "You help."
    assert [version.version for version in sdk.beta.agents.versions.list(agent.id, limit=1)] == [2, 1]
    assert [found.id for found in sdk.beta.agents.list()] == [agent.id]
    archived = sdk.beta.agents.archive(agent.id)
    assert archived.archived_at is not None
    assert list(sdk.beta.agents.list()) == []
    assert [found.id for found in sdk.beta.agents.list(include_archived=True)] == [agent.id]
    with pytest.raises(anthropic.ConflictError, match="archived"):
        sdk.beta.agents.update(agent.id, system="Again.")
    with pytest.raises(anthropic.NotFoundError, match="has no version 9"):
        sdk.beta.agents.retrieve(agent.id, version=9)


def test_lists_come_in_pages(control: ControlPlane) -> None:
    sdk = control.sdk()
    made = [sdk.beta.agents.create(name=f"agent-{number}", model="m").id for number in range(7)]
    assert [agent.id for agent in sdk.beta.agents.list(limit=3)] == made[::-1]
    first = sdk.beta.agents.retrieve(made[2])
    late = sdk.beta.agents.list(created_at_gte=first.created_at, limit=2)
    assert [agent.id for agent in late] == made[:1:-1]
    early = sdk.beta.agents.list(created_at_lte=first.created_at)
    assert [agent.id for agent in early] == made[2::-1]
    sessions = [sdk.beta.sessions.create(agent=made[0], environment_id="default").id for _ in range(5)]
    assert [session.id for session in sdk.beta.sessions.list(limit=2)] == sessions[::-1]
    assert [session.id for session in sdk.beta.sessions.list(limit=2, order="asc")] == sessions


def test_an_agent_without_a_model_runs_on_the_default(control: ControlPlane) -> None:
    with control.http() as http:
        answer = http.post("/v1/agents", json={"name": "plain", "instructions": "Be plain.", "model": None})
    assert answer.status_code == 200, answer.text
    strictly(BetaManagedAgentsAgent, answer.content)
    agent = control.sdk().beta.agents.retrieve(answer.json()["id"])
    assert agent.model.id == "default"
    assert agent.system == "Be plain."
    again = control.sdk().beta.agents.update(agent.id, model=agent.model.id, system="Be plainer.")
    assert again.model.id == "default"


def test_a_session_lives_through_the_sdk(control: ControlPlane) -> None:
    sdk = control.sdk()
    agent = sdk.beta.agents.create(name="support", model="m", tools=TOOLS[2:], metadata={})
    session = sdk.beta.sessions.create(
        agent={"type": "agent", "id": agent.id, "version": 1},
        environment_id="default",
        title="A case",
        metadata={"user_id": "cus_42"},
        initial_events=[{"type": "user.message", "content": [{"type": "text", "text": "Hello."}]}],
    )
    strictly(BetaManagedAgentsSession, body_of(control, f"/v1/sessions/{session.id}"))
    assert (session.status, session.title, session.agent.version) == ("running", "A case", 1)
    assert session.user_id == "cus_42"  # type: ignore[attr-defined]  # ours

    sdk.beta.agents.update(agent.id, system="New words.")
    pinned = sdk.beta.sessions.retrieve(session.id)
    assert (pinned.agent.version, pinned.agent.system) == (1, None)
    fresh = sdk.beta.sessions.create(agent=agent.id, environment_id=session.environment_id)
    assert (fresh.agent.version, fresh.status) == (2, "idle")

    renamed = sdk.beta.sessions.update(session.id, title="The case", metadata={"open": "yes"})
    assert (renamed.title, renamed.metadata) == ("The case", {"user_id": "cus_42", "open": "yes"})
    listed = sdk.beta.sessions.events.list(session.id)
    assert [event.type for event in listed] == ["user.message", "session.status_running", "session.updated"]

    assert [found.id for found in sdk.beta.sessions.list(statuses=["running", "terminated"])] == [session.id]
    assert [found.id for found in sdk.beta.sessions.list(agent_id=agent.id, agent_version=2)] == [fresh.id]
    assert list(sdk.beta.sessions.list(deployment_id="depl_" + "0" * 32)) == []
    assert [found.id for found in sdk.beta.sessions.list(created_at_gt=session.created_at)] == [fresh.id]
    assert list(sdk.beta.sessions.resources.list(session.id)) == []

    assert sdk.beta.sessions.archive(session.id).archived_at is not None
    assert [found.id for found in sdk.beta.sessions.list()] == [fresh.id]
    assert len(list(sdk.beta.sessions.list(include_archived=True))) == 2
    with pytest.raises(anthropic.ConflictError, match="archived"):
        sdk.beta.sessions.events.send(session.id, events=[{"type": "user.interrupt"}])

    deleted = sdk.beta.sessions.delete(session.id)
    strictly(BetaManagedAgentsDeletedSession, deleted)
    for gone in (
        lambda: sdk.beta.sessions.retrieve(session.id),
        lambda: sdk.beta.sessions.events.list(session.id),
        lambda: sdk.beta.sessions.delete(session.id),
    ):
        with pytest.raises(anthropic.NotFoundError):
            gone()


def test_every_event_a_client_sends_comes_back_as_the_sdk_knows_it(control: ControlPlane) -> None:
    sdk = control.sdk()
    agent = sdk.beta.agents.create(name="support", model="m")
    session = sdk.beta.sessions.create(agent=agent.id, environment_id="default")
    events: list[Any] = [
        {"type": "user.interrupt"},
        {
            "type": "user.message",
            "content": [
                {"type": "text", "text": "Look: \u2028 ünï😀"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}},
                {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
                {
                    "type": "document",
                    "title": "Notes",
                    "source": {"type": "text", "media_type": "text/plain", "data": "notes"},
                },
            ],
        },
        {"type": "system.message", "content": [{"type": "text", "text": "Be brief."}]},
    ]
    sent = sdk.beta.sessions.events.send(session.id, events=events)
    strictly(BetaManagedAgentsSendSessionEvents, sent)
    assert sent.data is not None
    assert [event.type for event in sent.data] == [event["type"] for event in events]

    page = sdk.beta.sessions.events.list(session.id)
    for event in page:
        strictly(BetaManagedAgentsSessionEvent, event)
    assert [event.type for event in page] == [*(event["type"] for event in events), "session.status_running"]
    assert page.data[1].content[0].text == "Look: \u2028 ünï😀"  # type: ignore[union-attr, index]

    backwards = sdk.beta.sessions.events.list(session.id, order="desc", limit=1)
    assert [event.id for event in backwards] == [event.id for event in page][::-1]
    chosen = sdk.beta.sessions.events.list(session.id, types=["user.interrupt", "session.status_running"])
    assert [event.type for event in chosen] == ["user.interrupt", "session.status_running"]


def test_the_environment_is_there_without_being_made(control: ControlPlane) -> None:
    sdk = control.sdk()
    (environment,) = sdk.beta.environments.list()
    strictly(BetaEnvironment, body_of(control, f"/v1/environments/{environment.id}"))
    agent = sdk.beta.agents.create(name="support", model="m")
    session = sdk.beta.sessions.create(agent=agent.id, environment_id=environment.id)
    assert session.environment_id == environment.id
    assert sdk.beta.environments.retrieve(environment.id).name == "default"


def test_a_memory_store_is_attached_to_a_session(control: ControlPlane) -> None:
    sdk = control.sdk()
    store = sdk.beta.memory_stores.create(name="Facts", description="What holds.")
    agent = sdk.beta.agents.create(name="support", model="m")
    session = sdk.beta.sessions.create(
        agent=agent.id,
        environment_id="default",
        resources=[{"type": "memory_store", "memory_store_id": store.id, "instructions": "Read first."}],
    )
    other = sdk.beta.sessions.create(agent=agent.id, environment_id="default")
    (resource,) = sdk.beta.sessions.resources.list(session.id)
    strictly(BetaManagedAgentsSessionResource, resource)
    assert resource.type == "memory_store"
    assert (resource.name, resource.description, resource.access) == ("Facts", "What holds.", "read_write")
    assert [found.id for found in sdk.beta.sessions.list(memory_store_id=store.id)] == [session.id]
    assert other.resources == []
    with pytest.raises(anthropic.NotFoundError, match="no memory store"):
        sdk.beta.sessions.create(
            agent=agent.id,
            environment_id="default",
            resources=[{"type": "memory_store", "memory_store_id": "memstore_" + "0" * 32}],
        )


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("skills", lambda sdk, _: list(sdk.beta.skills.list())),
        (
            "outcomes",
            lambda sdk, session: sdk.beta.sessions.events.send(session, events=[{"type": "user.define_outcome"}]),
        ),
        ("vault_ids", lambda sdk, session: sdk.beta.sessions.update(session, vault_ids=["vlt_1"])),
        (
            "github_repository",
            lambda sdk, _: sdk.beta.deployments.create(
                agent="a",
                environment_id="e",
                name="d",
                initial_events=[{"type": "user.message", "content": [{"type": "text", "text": "Go."}]}],
                resources=[{"type": "github_repository", "url": "https://x", "authorization_token": "t"}],
            ),
        ),
        (
            "overrides",
            lambda sdk, _: sdk.beta.sessions.create(
                agent={"type": "agent_with_overrides", "id": "a"}, environment_id="e"
            ),
        ),
        (
            "skills",
            lambda sdk, _: sdk.beta.agents.create(
                name="n", model="m", skills=[{"type": "anthropic", "skill_id": "pdf"}]
            ),
        ),
    ],
)
def test_what_is_not_served_says_so_by_name(control: ControlPlane, name: str, call: Any) -> None:
    sdk = control.sdk()
    with pytest.raises(anthropic.APIStatusError) as refused:
        call(sdk, "sesn_" + "0" * 32)
    assert refused.value.status_code == 501
    assert name in refused.value.message
