"""OpenAI's conversations as a face of sessions, with the unmodified SDK."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from support.control_plane import ControlPlane


@pytest.fixture
def sdk(plane: ControlPlane, http: httpx.Client) -> Iterator[openai.OpenAI]:
    http.post("/v1/agents/apply", json={"definition": {"name": "talker", "model": "m"}})
    headers = {"x-trunkline-agent": "talker", "x-trunkline-user": "ada"}
    with openai.OpenAI(
        base_url=f"{plane.base_url}/v1", api_key=plane.key, max_retries=0, default_headers=headers
    ) as client:
        yield client


def test_a_conversation_is_made_changed_and_deleted(sdk: openai.OpenAI, http: httpx.Client) -> None:
    made = sdk.conversations.create(metadata={"topic": "tea"}, items=[{"role": "user", "content": "Hello."}])
    assert (made.object, made.metadata) == ("conversation", {"topic": "tea"})
    session = http.get(f"/v1/sessions/{made.id.replace('conv_', 'sesn_')}").json()
    assert (session["agent"]["name"], session["user_id"], session["status"]) == ("talker", "ada", "idle")
    assert sdk.conversations.retrieve(made.id) == made
    assert sdk.conversations.update(made.id, metadata={"topic": "milk"}).metadata == {"topic": "milk"}
    assert sdk.conversations.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        sdk.conversations.retrieve(made.id)


def test_items_are_added_listed_and_deleted(sdk: Any, http: httpx.Client) -> None:
    conversation = sdk.conversations.create().id
    added = sdk.conversations.items.create(
        conversation,
        items=[
            {"role": "user", "content": "One."},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Two."}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Three."}]},
        ],
    )
    assert [item.type for item in added.data] == ["message"] * 3
    assert [item.content[0].text for item in sdk.conversations.items.list(conversation, order="asc", limit=2)] == [
        "One.",
        "Two.",
        "Three.",
    ]
    assert sdk.conversations.items.list(conversation).data[0].id == added.last_id
    first = sdk.conversations.items.retrieve(added.first_id, conversation_id=conversation)
    assert first == added.data[0]
    assert sdk.conversations.items.delete(added.first_id, conversation_id=conversation).id == conversation
    with pytest.raises(openai.NotFoundError):
        sdk.conversations.items.retrieve(added.first_id, conversation_id=conversation)
    events = http.get(f"/v1/sessions/{conversation.replace('conv_', 'sesn_')}/events").json()["data"]
    assert [event["type"] for event in events] == ["agent.message", "user.message"]


def test_what_is_not_kept_is_refused_by_name(sdk: Any, plane: ControlPlane) -> None:
    conversation = sdk.conversations.create().id
    for item in (
        {"type": "function_call_output", "call_id": "c", "output": "x"},
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "input_image", "detail": "auto", "image_url": "https://a.example/b.png"}],
        },
    ):
        with pytest.raises(openai.InternalServerError) as refused:
            sdk.conversations.items.create(conversation, items=[item])
        assert refused.value.status_code == 501
    with plane.http() as http:
        unnamed = http.post("/v1/conversations", json={})
    assert (unnamed.status_code, unnamed.json()["error"]["param"]) == (400, "x-trunkline-agent")
