from __future__ import annotations

from datetime import UTC, datetime

import pytest

from support.control_plane import ControlPlane
from trunkline import Agent, Block, Conflict, InvalidRequest, NotFound, Trunkline, Unauthenticated

pytestmark = pytest.mark.tenant

USER = "cus_42"


class Customer(Block, scope="user"):
    """Who the customer is and what they like."""

    name: str
    recent_purchases: list[str] | None = None
    preferences: dict[str, str] | None = None


SUPPORT = Agent(name="support-resolver", instructions="You resolve support cases.", blocks=[Customer])


@pytest.fixture
def client(control: ControlPlane) -> Trunkline:
    return Trunkline(control.base_url, control.key)


def test_apply_creates_then_leaves_alone_then_updates(client: Trunkline) -> None:
    created = client.agents.apply(SUPPORT)
    assert (created.change, created.version, created.model_name) == ("created", 1, None)
    assert client.agents.apply(SUPPORT).change == "unchanged"
    updated = client.agents.apply({"name": "support-resolver", "model": "claude-sonnet"})
    assert (updated.change, updated.version, updated.model_name) == ("updated", 2, "claude-sonnet")
    assert updated.system is None
    assert [agent.id for agent in client.agents.list()] == [created.id]
    assert client.agents.get("support-resolver").id == client.agents.get(created.id).id == created.id


def test_a_wrong_definition_names_the_member(client: Trunkline) -> None:
    with pytest.raises(InvalidRequest, match="memori"):
        client.agents.apply({"name": "x", "memori": {}})
    assert client.agents.list() == ()


def test_blocks_are_written_read_and_remembered_with_their_history(client: Trunkline) -> None:
    client.agents.apply(SUPPORT)
    empty = client.memory.get("support-resolver", user_id=USER)
    assert [(block.block, block.scope, block.value) for block in empty] == [("customer", "user", {})]
    assert "required but unknown: name" in empty[0].rendered

    client.memory.operations(
        "support-resolver", "customer", [{"op": "set", "field": "name", "value": "Ada"}], user_id=USER
    )
    written = client.memory.operations(
        "support-resolver", "customer", [{"op": "append", "field": "recent_purchases", "value": "kettle"}], user_id=USER
    )
    assert written.value == {"name": "Ada", "recent_purchases": ["kettle"]}
    assert client.memory.get("support-resolver", user_id=USER)[0].value == written.value

    history = client.memory.history("support-resolver", "customer", user_id=USER)
    assert [version.version for version in history] == [2, 1]
    assert history[0].operations is not None
    assert history[0].operations[0]["op"] == "append"
    assert history[0].actor.type == "api_key"


def test_a_broken_schema_and_a_stale_precondition_are_their_errors(client: Trunkline) -> None:
    client.agents.apply(SUPPORT)
    with pytest.raises(InvalidRequest, match="name"):
        client.memory.operations(
            "support-resolver", "customer", [{"op": "set", "field": "name", "value": 7}], user_id=USER
        )
    client.memory.operations(
        "support-resolver", "customer", [{"op": "set", "field": "name", "value": "Ada"}], user_id=USER
    )
    stale = {"op": "set", "field": "name", "value": "Eve", "expect_sha256": "0" * 64}
    with pytest.raises(Conflict) as caught:
        client.memory.operations("support-resolver", "customer", [stale], user_id=USER)
    assert caught.value.details
    assert client.memory.get("support-resolver", user_id=USER)[0].value == {"name": "Ada"}


def test_teams_and_users_have_limits(client: Trunkline) -> None:
    team = client.teams.create("desk", budget_usd=5, budget_period="day", users={"rpm": 2})
    assert (team.budget_usd, team.users and team.users.rpm) == (5, 2)
    assert client.teams.update("desk", users=None, tpm=10).users is None
    assert [known.name for known in client.teams.list()] == ["desk"]
    ends = datetime(2100, 1, 1, tzinfo=UTC)
    assert client.teams.update(team.id, expires_at=ends).expires_at == ends
    assert client.teams.archive("desk").archived_at is not None
    with pytest.raises(NotFound):
        client.teams.get("desk")
    with pytest.raises(InvalidRequest):
        client.teams.create("odd", rpmm=1)
    assert client.users.set_limits("ada", parallel=1).parallel == 1
    assert [known.user_id for known in client.users.limits()] == ["ada"]
    client.users.remove_limits("ada")
    with pytest.raises(NotFound):
        client.users.remove_limits("ada")


def test_keys_are_made_listed_and_revoked(client: Trunkline, control: ControlPlane) -> None:
    key = client.keys.create("for bob", scopes=["manage"])
    assert key.key.startswith("sk-tl-")
    assert key.key not in repr(key)
    bob = Trunkline(control.base_url, key.key)
    assert key.id in {listed.id for listed in bob.keys.list()}
    client.keys.revoke(key.id)
    with pytest.raises(Unauthenticated):
        bob.keys.list()


def test_sessions_and_events_are_read_whatever_made_them(client: Trunkline, control: ControlPlane) -> None:
    agent = client.agents.apply(SUPPORT)
    with control.http() as http:
        made = http.post("/v1/sessions", json={"agent": agent.id, "title": "A case"})
    assert made.status_code == 200, made.text
    session = client.sessions.get(made.json()["id"])
    assert (session.title, (session.agent or {})["name"]) == ("A case", "support-resolver")
    assert [listed.id for listed in client.sessions.list(agent_id=agent.id)] == [session.id]
    text = {"type": "user.message", "content": [{"type": "text", "text": "My kettle leaks."}]}
    with control.http() as http:
        sent = http.post(f"/v1/sessions/{session.id}/events", json={"events": [text]})
    assert sent.status_code == 200, sent.text
    said = [event.text() for event in client.sessions.events(session.id) if event.type == "user.message"]
    assert said == ["My kettle leaks."]


def test_what_is_not_there_is_not_found(client: Trunkline) -> None:
    with pytest.raises(NotFound):
        client.agents.get("nobody")
    with pytest.raises(NotFound):
        client.sessions.get("sesn_" + "0" * 32)
    with pytest.raises(NotFound):
        client.memory.get("nobody", user_id=USER)


def test_usage_without_calls_is_nothing(client: Trunkline) -> None:
    assert client.usage().requests == 0
