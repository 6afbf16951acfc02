"""Keys of one agent: which stores and tools they reach, and that work goes on under the limits of who started it."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from support.control_plane import ControlPlane
from support.memory import MEMORY, SESSION, ok, tool
from trunkline.domain.toolsets import AgentToolset, granted

BOUND = ["inference", "memory", "manage"]
NAME = {"op": "set", "field": "name", "value": "Ada"}


def agent_of(http: httpx.Client, name: str, **more: Any) -> str:
    return str(ok(http.post("/v1/agents", json={"name": name, "model": "m", "memory": MEMORY, **more}))["id"])


def store_of(http: httpx.Client, name: str = "facts") -> str:
    return str(ok(http.post("/v1/memory_stores", json={"name": name}))["id"])


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"].get("code", "")


def test_a_key_reaches_the_stores_that_it_was_granted_and_no_others(plane: ControlPlane, http: httpx.Client) -> None:
    agent = agent_of(http, "granted")
    shared, notes, other = (store_of(http, name) for name in ("shared", "notes", "other"))
    key = plane.new_key(
        agent_id=agent,
        scopes=BOUND,
        stores=[{"memory_store_id": shared}, {"memory_store_id": notes, "access": "read_write"}],
    )
    with plane.http(key) as mine:
        assert {store["id"] for store in ok(mine.get("/v1/memory_stores"))["data"]} == {shared, notes}
        assert mine.get(f"/v1/memory_stores/{other}").status_code == 404
        assert code(mine.post(f"/v1/memory_stores/{shared}/memories", json={"path": "/a", "content": "x"})) == (
            403,
            "store_read_only",
        )
        ok(mine.post(f"/v1/memory_stores/{notes}/memories", json={"path": "/a", "content": "x"}))
        assert code(mine.post("/v1/memory_stores", json={"name": "one more"})) == (403, "store_not_granted")
        assert code(mine.post("/v1/erase", json={"user_id": "cus_1"})) == (403, "store_not_granted")


def test_what_is_attached_is_no_more_than_what_was_granted(plane: ControlPlane, http: httpx.Client) -> None:
    agent = agent_of(http, "attaching")
    shared, other = store_of(http), store_of(http)
    key = plane.new_key(agent_id=agent, scopes=BOUND, stores=[{"memory_store_id": shared}])

    def attach(store: str, **access: str) -> httpx.Response:
        resource = {"type": "memory_store", "memory_store_id": store, **access}
        with plane.http(key) as mine:
            return mine.post("/v1/sessions", json={"agent": agent, "resources": [resource]})

    assert attach(other).status_code == 404
    assert code(attach(shared, access="read_write")) == (403, "store_read_only")
    assert ok(attach(shared))["resources"][0]["access"] == "read_only"


def test_a_store_attached_for_reading_is_not_written_with_the_sessions_key(
    plane: ControlPlane, http: httpx.Client
) -> None:
    agent = agent_of(http, "librarian")
    with plane.http(plane.new_key(agent_id=agent, scopes=BOUND)) as mine:
        store = store_of(mine)
        memory = {"path": "/a", "content": "x"}
        ok(mine.post(f"/v1/memory_stores/{store}/memories", json=memory))
        resource = {"type": "memory_store", "memory_store_id": store, "access": "read_only"}
        session = ok(mine.post("/v1/sessions", json={"agent": agent, "resources": [resource]}))["id"]
        for path, body in (
            ("memories", {"path": "/b", "content": "x"}),
            ("passages", {"passages": [{"text": "x"}]}),
            ("archive", {}),
            ("erase", {"everything": True}),
        ):
            answer = mine.post(f"/v1/memory_stores/{store}/{path}", json=body)
            assert code(answer) == (403, "store_read_only"), path
        assert code(mine.delete(f"/v1/memory_stores/{store}")) == (403, "store_read_only")
        assert mine.get(f"/v1/memory_stores/{store}/memories").status_code == 200
        ok(mine.delete(f"/v1/sessions/{session}/resources/{store}"))
        ok(mine.post(f"/v1/memory_stores/{store}/memories", json={"path": "/b", "content": "x"}))


def test_scopes_of_memory_are_granted_for_reading_and_writing(plane: ControlPlane, http: httpx.Client) -> None:
    agent = agent_of(http, "scoped")
    key = plane.new_key(
        agent_id=agent, scopes=BOUND, stores=[{"scope": "user", "access": "read_write"}, {"scope": "agent"}]
    )
    path = f"/v1/agents/{agent}/memory"
    with plane.http(key) as mine:
        ok(mine.post(f"{path}/customer", json={"operations": [NAME], "user_id": "cus_1"}))
        shown = ok(mine.get(path, params={"user_id": "cus_1", "session_id": SESSION}))["blocks"]
        assert [block["block"] for block in shown] == ["team", "customer"]
        append = {"op": "append", "field": "members", "value": "Bo"}
        assert code(mine.post(f"{path}/team", json={"operations": [append]})) == (403, "store_not_granted")
        assert mine.get(f"{path}/rules").status_code == 404
        told = ok(tool(mine, agent, "memory_update", {"operations": [{**append, "block": "team"}]}))
        assert told["is_error"]
        assert "may not write memory of the scope 'agent'" in told["content"]
        assert "rules" not in ok(tool(mine, agent, "memory_read", {}))["content"]


def test_only_the_tools_that_were_granted_are_carried_out(plane: ControlPlane, http: httpx.Client) -> None:
    agent = agent_of(http, "toolbound")
    key = plane.new_key(agent_id=agent, scopes=BOUND, tools=["memory_read"])
    with plane.http(key) as mine:
        assert not ok(tool(mine, agent, "memory_read", {}))["is_error"]
        for name in ("memory_update", "memory_search", "memory"):
            told = ok(tool(mine, agent, name, {"query": "x"}))
            assert told == {
                "content": f"The key that this call was made with may not use the tool {name}.",
                "is_error": True,
            }


@pytest.mark.parametrize(
    ("own", "asked"),
    [
        ({"stores": [{"scope": "user"}]}, {}),
        ({"stores": [{"scope": "user"}]}, {"stores": [{"scope": "user", "access": "read_write"}]}),
        ({"stores": [{"scope": "user"}]}, {"stores": [{"scope": "org"}]}),
        ({"tools": ["read"]}, {}),
        ({"tools": ["read"]}, {"tools": ["read", "bash"]}),
    ],
)
def test_a_key_grants_no_more_than_it_was_granted(
    plane: ControlPlane, http: httpx.Client, own: dict[str, Any], asked: dict[str, Any]
) -> None:
    with plane.http(plane.new_key(scopes=BOUND, **own)) as mine:
        answer = mine.post("/v1/keys", json={"name": "more", **asked})
        assert answer.status_code == 403
        assert answer.json()["error"]["param"] == next(iter(own))
        made = ok(mine.post("/v1/keys", json={"name": "as much", **own}))
        assert mine.post(f"/v1/keys/{made['id']}", json={next(iter(own)): None}).status_code == 403
        assert ok(mine.get(f"/v1/keys/{made['id']}"))[next(iter(own))]


def test_grants_of_what_is_not_there_are_refused(plane: ControlPlane, http: httpx.Client) -> None:
    theirs = plane.another_tenant("grants")
    with plane.http(theirs) as other:
        foreign = store_of(other)
    for stores, status in (
        ([{"memory_store_id": foreign}], 404),
        ([{}], 400),
        ([{"memory_store_id": foreign, "scope": "user"}], 400),
        ([{"scope": "all"}], 400),
    ):
        assert http.post("/v1/keys", json={"name": "k", "stores": stores}).status_code == status, stores


def test_a_key_of_one_user_starts_no_session_with_another(plane: ControlPlane, http: httpx.Client) -> None:
    agent = agent_of(http, "personal")
    with plane.http(plane.new_key(agent_id=agent, scopes=BOUND, user_id="cus_1")) as mine:
        assert ok(mine.post("/v1/sessions", json={"agent": agent}))["user_id"] == "cus_1"
        assert mine.post("/v1/sessions", json={"agent": agent, "user_id": "cus_2"}).status_code == 403


def test_tools_that_were_not_granted_are_not_the_sessions() -> None:
    toolset = AgentToolset.model_validate(
        {"type": "agent_toolset_20260401", "configs": [{"name": "grep", "enabled": False}]}
    ).model_dump(mode="json")
    custom = [{"type": "custom", "name": name} for name in ("weather", "refund")]
    definition = {"tools": [toolset, *custom]}
    assert granted(definition, None) == definition
    narrowed = granted(definition, ["read", "grep", "weather"])["tools"]
    enabled = {config["name"] for config in narrowed[0]["configs"] if config["enabled"]}
    assert enabled == {"read"}
    assert not narrowed[0]["default_config"]["enabled"]
    assert [tool["name"] for tool in narrowed[1:]] == ["weather"]
    AgentToolset.model_validate(narrowed[0])
