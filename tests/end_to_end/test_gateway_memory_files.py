"""A user's memory, as calls through the gateway made it, moves to another tenant through the gateway."""

from __future__ import annotations

from uuid import uuid4

from support.memory import CUSTOMER, ok, write
from support.stack import Stack


def test_what_was_said_and_learned_is_known_in_another_tenant(stack: Stack) -> None:
    agent = f"mover-{uuid4().hex[:8]}"
    definition = {"name": agent, "model": "gpt", "memory": {"blocks": {"customer": CUSTOMER}}}
    with stack.http() as http:
        ok(http.post("/v1/agents", json=definition))
        ok(write(http, agent, "customer", {"op": "set", "field": "name", "value": "Ada"}, user_id="cus_move"))
        stack.openai().chat.completions.create(
            model=f"agent/{agent}",
            messages=[{"role": "user", "content": "The zebrafax stands in the cellar."}],
            user="cus_move",
        )
        store = ok(http.get(f"/v1/agents/{agent}/memory/customer?user_id=cus_move"))["store_id"]
        # Read through the gateway, so that one's own turn is there.
        file = http.get(f"/v1/memory_stores/{store}/export")
        assert file.status_code == 200
        assert "zebrafax" in file.text
        key = ok(http.post("/v1/tenants", json={"name": f"other-{uuid4().hex[:8]}"}))["key"]
    with stack.http(key) as there:
        ok(there.post("/v1/agents", json=definition))
        url = f"/v1/agents/{agent}/memory_import?user_id=cus_move"
        told = ok(there.post(url, content=file.content, headers={"content-type": "application/x-ndjson"}))
        assert told["added"]["memories"] == 1
        copy = there.get(f"/v1/memory_stores/{told['memory_store_id']}/export")
        assert copy.content == file.content
    stack.openai(key).chat.completions.create(
        model=f"agent/{agent}",
        messages=[{"role": "user", "content": "Where does the zebrafax stand?"}],
        user="cus_move",
    )
    sent = str(stack.asked()[-1])
    assert "Ada" in sent, "the block is in the prompt"
    assert "stands in the cellar" in sent, "and so is what was said in the other tenant"
