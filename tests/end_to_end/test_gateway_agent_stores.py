"""Stores attached to an agent, as its model is given them: in the prompt, by the memory tool, and recalled."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import httpx
import pytest

from support.memory import ok
from support.stack import Stack, eventually

RULES = [
    "A refund is paid within fourteen days.",
    "The warehouse in Bremen opens at seven.",
    "Lamps with a broken shade are replaced.",
]
RECIPES = ["Pancakes want eggs and milk.", "A lamp of oil burns for a night."]


def store(http: httpx.Client, name: str, passages: list[str]) -> str:
    made = str(ok(http.post("/v1/memory_stores", json={"name": name}))["id"])
    given = {"passages": [{"text": text} for text in passages]}
    ok(http.post(f"/v1/memory_stores/{made}/passages", json=given))
    return made


def make_agent(http: httpx.Client, *stores: str, **memory: Any) -> dict[str, Any]:
    given = {"stores": [{"store": one} for one in stores], **memory}
    made: dict[str, Any] = ok(
        http.post("/v1/agents", json={"name": f"helper-{uuid4().hex[:8]}", "model": "gpt", "memory": given})
    )
    return made


def ask(
    stack: Stack, agent: str, text: str, *, user: str | None = "cus_1", key: str | None = None, session: str = ""
) -> tuple[str, Any]:
    """Say something; return all that the model was sent, and the answer's headers."""
    raw = stack.openai(key).chat.completions.with_raw_response.create(
        model=f"agent/{agent}",
        messages=[{"role": "user", "content": text}],
        extra_headers={
            **({"x-trunkline-user": user} if user else {}),
            **({"x-trunkline-session": session} if session else {}),
        },
    )
    return json.dumps(stack.asked()[-1]["body"], ensure_ascii=False), raw.headers


@pytest.mark.parametrize("user", ["cus_1", None])
def test_they_are_in_the_prompt_and_recalled_for_whoever_calls(stack: Stack, user: str | None) -> None:
    with stack.http() as http:
        handbook = store(http, "Handbook", RULES)
        ok(http.post(f"/v1/memory_stores/{handbook}/memories", json={"path": "/tone.md", "content": "Be friendly."}))
        agent = make_agent(http, handbook)["name"]
        other = make_agent(http)["name"]
    asked, headers = ask(stack, agent, "How long does a refund take?", user=user)
    assert '<memory store=\\"handbook\\" directory=\\"/memories/handbook\\" access=\\"read_only\\">' in asked
    assert "Be friendly." in asked
    assert "- [handbook] A refund is paid within fourteen days." in asked
    assert "Bremen" not in asked
    assert headers["x-trunkline-recall"] == "lexical"
    assert '"name": "memory"' in asked, "the tool that reads them is offered"
    asked, _ = ask(stack, other, "How long does a refund take?", user=user)
    assert "fourteen days" not in asked


def test_stores_and_the_users_turns_share_one_budget_by_what_they_say(stack: Stack) -> None:
    user = f"cus_{uuid4().hex[:8]}"
    with stack.http() as http:
        stores = [store(http, "Handbook", RULES), store(http, "Recipes", RECIPES)]
        both = make_agent(http, *stores)
    ask(stack, both["name"], "say my lamp has a broken shade", user=user)
    asked, _ = ask(stack, both["name"], "lamps, broken shade: what is done?", user=user)
    assert "- [handbook] Lamps with a broken shade are replaced." in asked
    assert "user] say my lamp has a broken shade" in asked
    assert "- [recipes] A lamp of oil burns for a night." in asked
    # With room for two passages, the store that has one word of the question gives way.
    with stack.http() as http:
        change = {"version": 1, "memory": {**both["memory"], "recall_tokens": 20}}
        ok(http.post(f"/v1/agents/{both['id']}", json=change))

    def one_gives_way() -> bool:
        asked, _ = ask(stack, both["name"], "lamps, broken shade: what is done?", user=user)
        assert "- [handbook] Lamps with a broken shade are replaced." in asked
        return "oil burns" not in asked

    assert eventually(one_gives_way)  # once the gateway has heard of the change


def test_a_sessions_own_stores_are_recalled_too_and_nobody_elses(stack: Stack) -> None:
    with stack.http() as http:
        handbook = store(http, "Handbook", RULES)
        agent = make_agent(http)
        resources = [{"type": "memory_store", "memory_store_id": handbook}]
        given = {"agent": agent["id"], "user_id": "cus_1", "resources": resources}
        session = ok(http.post("/v1/sessions", json=given))["id"]
    asked, _ = ask(stack, agent["name"], "How long does a refund take?", session=session)
    assert "- [handbook] A refund is paid within fourteen days." in asked
    asked, _ = ask(stack, agent["name"], "How long does a refund take?")
    assert "fourteen days" not in asked


def test_another_tenants_agent_of_the_same_name_has_nothing_of_it(stack: Stack) -> None:
    with stack.http() as http:
        made = make_agent(http, store(http, "Handbook", RULES))
        theirs = str(ok(http.post("/v1/tenants", json={"name": f"other-{uuid4().hex[:8]}"}))["key"])
    with stack.http(theirs) as http:
        given = {"name": made["name"], "model": "gpt", "memory": {"recall": True}}
        ok(http.post("/v1/agents", json=given))
    asked, _ = ask(stack, made["name"], "How long does a refund take?", key=theirs)
    assert "handbook" not in asked
    assert "fourteen days" not in asked


def test_where_recall_is_off_nothing_is_recalled(stack: Stack) -> None:
    with stack.http() as http:
        agent = make_agent(http, store(http, "Handbook", RULES), recall=False)["name"]
    asked, _ = ask(stack, agent, "How long does a refund take?")
    assert "/memories/handbook" in asked
    assert "fourteen days" not in asked
