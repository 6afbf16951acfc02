"""`Idempotency-Key` is taken on every POST that the API describes.

A new route fails here until it takes the key, or stands below with a reason.
"""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from integration.test_api_isolation import BODIES, ROUTES, fill, store_bodies
from support.control_plane import ControlPlane
from support.postgres import DatabaseUrls

REPEATABLE = {
    "/v1/agents/{agent}/memory_search": "reads",
    "/v1/memory_stores/{store_id}/search": "reads",
    "/v1/memory_stores/{store_id}/items": "puts and deletes by key: the same however often",
    "/v1/agents/{agent}/memory_tools": "the gateway's: what it writes is kept once by its `event_id`",
    "/v1/memory_proposals/{proposal_id}/approve": "decided once: asked again, it is what it was",
    "/v1/memory_proposals/{proposal_id}/reject": "the same",
    "/v1/vaults/{vault_id}/credentials/{credential_id}/mcp_oauth_validate": "finds out how things are at the moment",
    "/mcp": "MCP's own wire, whose requests have ids of their own",
    "/v1/threads": "opens the thread of a name, which is there from then on",
    "/v1/tenants": "a name is taken once, and a key's text is never kept",
}
ENDS = ("archive", "erase", "redact", "prune", "delete_runs", "pop")
"""What ends something that other routes need: these come last, what lies deeper first."""
POSTS = sorted(
    (path for method, path in ROUTES if method == "POST" and path not in REPEATABLE),
    key=lambda path: (path.endswith(ENDS), -path.count("/")),
)


@pytest.fixture(scope="module")
def world(urls: DatabaseUrls, plane: ControlPlane) -> dict[str, str]:
    with plane.http() as http:
        ids = fill(http, "mine")
        # Of its own: the session of the others may be running by then, and its items cannot be changed.
        talk = http.post("/v1/conversations", json={}, headers={"x-trunkline-agent": ids["agent"]})
    return ids | {"call_id": store_bodies(urls, ids), "conversation_id": talk.json()["id"]}


_FILES: dict[str, str] = {}


def sent(http: httpx.Client, path: str, ids: dict[str, str], key: str) -> httpx.Response:
    """Send what the route takes, with things that there are."""
    body: dict[str, Any] = dict(BODIES["POST", path])
    more: dict[str, Any] = {"json": body}
    match path:
        case "/v1/sessions" | "/v1/deployments":
            body["agent"] = ids["agent"]
        case "/v1/sessions/{session_id}/resources":
            if key not in _FILES:
                made = http.post("/v1/files", files={"file": ("c.txt", b"z", "text/plain")})
                _FILES[key] = made.json()["id"]
            body["file_id"] = _FILES[key]
        case "/v1/vaults/{vault_id}/credentials":
            body["auth"] = body["auth"] | {"mcp_server_url": "https://b.example/mcp"}
        case "/v1/agents/apply":
            body["definition"] = {"name": "applied"}
        case "/v1/files":
            more = {"files": {"file": ("b.txt", b"y", "text/plain")}}
        case "/v1/memory_stores/{store_id}/memory_versions/{version_id}/redact":
            changed = http.post(
                f"/v1/memory_stores/{ids['store_id']}/memories/{ids['memory_id']}", json={"content": "z"}
            )
            assert changed.status_code == 200
        case "/v1/agents/{agent}/memory_import":
            file = {"agents": [{"name": "a", "blocks": [], "messages": []}], "blocks": [], "files": [], "sources": []}
            more = {"json": file}
        case "/v1/memory_stores/{store_id}/import":
            exported = http.get(f"/v1/memory_stores/{ids['store_id']}/export")
            more = {"content": exported.content, "headers": {"content-type": exported.headers["content-type"]}}
        case "/v1/threads/{framework_thread_id}/copy":
            body["thread_id"] = http.post("/v1/threads", json={"framework": "langgraph", "name": "copy"}).json()["id"]
        case "/v1/deployments/{deployment_id}/unpause":
            assert http.post(path.format(**ids).replace("/unpause", "/pause"), json={}).status_code == 200
    if path == "/v1/conversations":
        more["headers"] = {"x-trunkline-agent": ids["agent"]}
    headers = {**more.pop("headers", {}), "idempotency-key": key}
    return http.post(path.format(**ids), headers=headers, **more)


@pytest.mark.parametrize("path", POSTS)
def test_a_post_sent_twice_with_a_key_is_carried_out_once(world: dict[str, str], http: httpx.Client, path: str) -> None:
    first = sent(http, path, world, path)
    assert first.status_code in (200, 204), first.text
    again = sent(http, path, world, path)
    if again.status_code == 409:
        assert again.json()["error"]["code"] == "shown_once"
    else:
        assert again.status_code == first.status_code, again.text
    other = http.post("/v1/environments", json={"name": "another"}, headers={"idempotency-key": path})
    assert (other.status_code, other.json()["error"].get("code")) == (409, "idempotency_key_reused")
