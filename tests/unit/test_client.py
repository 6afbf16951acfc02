from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from trunkline import errors
from trunkline.client import Agent, Trunkline, read_agents
from trunkline.client.connection import resolve
from trunkline.memory.blocks import Block


def home(path: Path, base_url: str = "http://127.0.0.1:4000", key: str = "sk-tl-home") -> dict[str, str]:
    (path / "run.json").write_text(json.dumps({"pid": 1, "base_url": base_url, "control_url": "x"}))
    (path / "admin.key").write_text(key + "\n")
    return {"TRUNKLINE_HOME": str(path)}


def test_arguments_come_before_the_environment_and_the_environment_before_the_home(tmp_path: Path) -> None:
    environ = home(tmp_path)
    found = resolve(None, None, environ)
    assert (found.base_url, found.api_key) == ("http://127.0.0.1:4000", "sk-tl-home")
    environ |= {"TRUNKLINE_BASE_URL": "http://there:1", "TRUNKLINE_API_KEY": "sk-tl-env"}
    found = resolve(None, None, environ)
    assert (found.base_url, found.api_key) == ("http://there:1", "sk-tl-env")
    found = resolve("http://given:2", "sk-tl-given", environ)
    assert (found.base_url, found.api_key) == ("http://given:2", "sk-tl-given")


def test_the_homes_key_goes_to_the_homes_gateway_only(tmp_path: Path) -> None:
    environ = home(tmp_path)
    assert resolve("http://127.0.0.1:4000/v1/", None, environ).api_key == "sk-tl-home"
    with pytest.raises(errors.SetupError, match="TRUNKLINE_API_KEY"):
        resolve("http://elsewhere.example", None, environ)


def test_nothing_anywhere_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(errors.SetupError, match="trunkline up"):
        resolve(None, None, {"TRUNKLINE_HOME": str(tmp_path)})


def test_a_key_is_not_in_the_repr(tmp_path: Path) -> None:
    assert "sk-tl-home" not in repr(resolve(None, None, home(tmp_path)))


def client(answer: Callable[[httpx.Request], httpx.Response]) -> Trunkline:
    return Trunkline("http://trunkline.test", "sk-tl-x", http=httpx.MockTransport(answer))


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.InvalidRequest),
        (401, errors.Unauthenticated),
        (403, errors.Forbidden),
        (404, errors.NotFound),
        (409, errors.Conflict),
        (413, errors.TooLarge),
        (429, errors.Unavailable),
        (500, errors.Internal),
        (501, errors.InvalidRequest),
        (503, errors.Unavailable),
    ],
)
def test_a_refusal_becomes_its_error(status: int, kind: type[errors.TrunklineError]) -> None:
    body = {
        "type": "error",
        "error": {"type": "t", "message": "no, because", "param": "p", "code": "c", "current": {"v": 1}},
        "request_id": "req_1",
    }
    with pytest.raises(kind, match="no, because") as caught:
        client(lambda _: httpx.Response(status, json=body)).keys.list()
    assert (caught.value.param, caught.value.code, caught.value.details) == ("p", "c", {"current": {"v": 1}})


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"error": "text"}', b""])
def test_a_refusal_without_a_reason_still_names_the_request(body: bytes) -> None:
    with pytest.raises(errors.Unavailable, match=r"GET http://trunkline\.test/v1/keys"):
        client(lambda _: httpx.Response(502, content=body)).keys.list()


def test_an_answer_that_is_not_json_is_an_error() -> None:
    with pytest.raises(errors.Internal, match="not JSON"):
        client(lambda _: httpx.Response(200, text="hello")).usage()


def test_lists_are_read_page_after_page() -> None:
    asked: list[dict[str, str]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(dict(request.url.params))
        number = int(request.url.params.get("page", "0"))
        key = {"id": f"key_{number}", "name": "n", "hint": "abcd"}
        return httpx.Response(200, json={"data": [key], "next_page": str(number + 1) if number < 2 else None})

    assert [key.id for key in client(answer).keys.list()] == ["key_0", "key_1", "key_2"]
    assert [query.get("page") for query in asked] == [None, "1", "2"]


def test_names_are_one_segment_of_a_path() -> None:
    paths: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.raw_path)
        return httpx.Response(200, json={"blocks": []})

    client(answer).memory.get("a/b c", user_id="cus/42")
    assert paths == [b"/v1/agents/a%2Fb%20c/memory?user_id=cus%2F42"]


def test_members_that_the_client_does_not_know_are_kept() -> None:
    key = {"id": "key_1", "name": "n", "hint": "abcd", "new_member": [1]}
    found = client(lambda _: httpx.Response(200, json={"data": [key]})).keys.list()
    assert found[0].to_json()["new_member"] == [1]


def test_an_agent_in_python_is_the_yaml_form() -> None:
    class Customer(Block, scope="user"):
        """Who the customer is."""

        name: str
        preferences: dict[str, str] | None = None

    definition = Agent(name="support", instructions="Help.", blocks=[Customer]).to_definition()
    assert definition["instructions"] == "Help."
    block = definition["memory"]["blocks"]["customer"]
    assert (block["scope"], block["required"]) == ("user", ["name"])
    assert set(block["fields"]) == {"name", "preferences"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no agent"),
        ("name: x", "expected `agent:`"),
        ("agent: {name: x}\nmodel: y", "unknown key `model`"),
        ("agent: {name: [", "is not YAML"),
    ],
)
def test_an_agent_file_that_is_wrong_is_named(text: str, said: str) -> None:
    with pytest.raises(errors.SetupError, match=r"f\.yaml") as caught:
        read_agents(text, "f.yaml")
    assert said in caught.value.message


def test_a_file_may_hold_several_agents() -> None:
    assert [agent["name"] for agent in read_agents("agent: {name: a}\n---\nagent: {name: b}\n", "f")] == ["a", "b"]


def test_the_package_exports_what_it_says() -> None:
    import trunkline

    for name in trunkline.__all__:
        assert getattr(trunkline, name).__name__ == name
