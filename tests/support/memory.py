"""Agents with memory, for tests."""

from __future__ import annotations

from typing import Any

import httpx

from support.control_plane import ControlPlane

CUSTOMER: dict[str, Any] = {
    "scope": "user",
    "description": "Who the customer is and what they like.",
    "fields": {
        "name": {"type": "string", "required": True, "description": "Full name."},
        "recent_purchases": {"type": "array", "items": {"type": "string"}, "maxItems": 200},
        "preferences": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}
MEMORY: dict[str, Any] = {
    "blocks": {
        "customer": CUSTOMER,
        "rules": {"scope": "org", "fields": {"text": {"type": "string"}, "revision": {"type": "integer"}}},
        "team": {"scope": "agent", "fields": {"members": {"type": "array", "items": {"type": "string"}}}},
        "case": {"scope": "session", "fields": {"topic": {"type": "string"}}},
    }
}
SESSION = "sesn_0193f0a4c1b27c55a1c8b4c0a1b2c3d4"


def ok(answer: httpx.Response) -> Any:
    """Return the body of an answer that must be 200."""
    assert answer.status_code == 200, answer.text
    return answer.json()


def new_agent(control: ControlPlane, name: str = "helper", memory: Any = None, key: str | None = None) -> str:
    """Make an agent and return its id."""
    with control.http(key) as http:
        return str(ok(http.post("/v1/agents", json={"name": name, "model": "m", "memory": memory or MEMORY}))["id"])


def write(http: httpx.Client, agent: str, block: str, *operations: Any, **more: Any) -> httpx.Response:
    """Carry out operations on a block."""
    return http.post(f"/v1/agents/{agent}/memory/{block}/operations", json={"operations": list(operations), **more})


def tool(http: httpx.Client, agent: str, name: str, given: Any, **more: Any) -> httpx.Response:
    """Call a memory tool as the gateway does."""
    body = {"name": name, "input": given, "user_id": "cus_42", "session_id": SESSION, **more}
    return http.post(f"/v1/agents/{agent}/memory_tools", json=body)
