"""The whole API under requests that nobody would write: no route fails, errors are the wire's, none crosses tenants.

Requests are made of the OpenAPI document: what it allows, and that with something else put into it. The seed is fixed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from integration.test_api_isolation import BODIES, fill, store_bodies, store_proposal
from support.control_plane import ControlPlane
from support.postgres import DatabaseUrls
from trunkline.api.app import ControlSettings, create_app

EXAMPLES = 8
"""Requests a route."""
DOCUMENT = create_app(ControlSettings("")).openapi()
ENDS = ("archive", "erase", "redact", "prune", "delete_runs", "pop", "replace")
OPERATIONS = sorted(
    ((method.upper(), path) for path, operations in DOCUMENT["paths"].items() for method in operations),
    key=lambda operation: (operation[0] == "DELETE", operation[1].endswith(ENDS)),
)

# No halves of surrogate pairs: what cannot be sent as UTF-8 is in test_api_errors.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    texts,
    st.sampled_from(
        ["", "\0", "sesn_", "x" * 5000, "🙂", "../..", "%00", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"]
    ),
)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
)


def allowed(schema: dict[str, Any], depth: int = 0) -> st.SearchStrategy[Any]:
    """What a schema allows, and now and then something else."""
    return st.one_of(*[_allowed(schema, depth)] * 7, anything)


def _allowed(schema: dict[str, Any], depth: int) -> st.SearchStrategy[Any]:  # noqa: PLR0912 (a case a kind of schema)
    if "$ref" in schema:
        return _allowed(DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]], depth)
    for union in ("anyOf", "oneOf", "allOf"):
        if union in schema:
            return st.one_of([_allowed(one, depth) for one in schema[union]])
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema.get("type"):
        case "object" | None if depth > 4:
            return st.just({})
        case "object":
            wanted = schema.get("required", ())
            members = schema.get("properties", {})
            known = {name: allowed(one, depth + 1) for name, one in members.items() if name in wanted}
            more = {name: allowed(one, depth + 1) for name, one in members.items() if name not in wanted}
            if not members:
                return st.dictionaries(texts, anything, max_size=3)
            return st.fixed_dictionaries(known, optional=more)
        case "array":
            least = schema.get("minItems", 0)
            return st.lists(allowed(schema.get("items", {}), depth + 1), min_size=least, max_size=least + 2)
        case "string" if "pattern" in schema:
            return st.from_regex(schema["pattern"])
        case "string" if schema.get("format") == "date-time":
            return st.sampled_from(["2026-01-01T00:00:00Z", "9999-12-31T23:59:59+00:00", "0001-01-01T00:00:00-12:00"])
        case "string":
            return texts
        case "integer":
            return st.integers(schema.get("minimum", -(2**40)), schema.get("maximum", 2**70))
        case "number":
            return st.floats(allow_nan=False, allow_infinity=False)
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
        case _:
            return anything


@dataclass(frozen=True)
class World:
    control: ControlPlane
    ids: dict[str, str]
    stranger: str


@pytest.fixture(scope="module")
def world(urls: DatabaseUrls, plane: ControlPlane) -> World:
    with plane.http() as http:
        ids = fill(http, "mine")
    ids["call_id"] = store_bodies(urls, ids)
    ids["proposal_id"] = store_proposal(urls, ids)
    return World(plane, ids, plane.another_tenant("stranger"))


@pytest.fixture(scope="module")
def clients(world: World) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    with world.control.http() as ours, world.control.http(world.stranger) as theirs:
        yield ours, theirs


def ask(http: httpx.Client, method: str, url: str, body: Any) -> tuple[int, Any]:
    """Send it; return the status, and the JSON of an error."""
    content = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json"} if content is not None else {}
    with http.stream(method, url, content=content, headers=headers) as response:
        if response.status_code < 400:
            return response.status_code, None
        response.read()
        return response.status_code, response.json()


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_no_request_makes_a_route_fail(
    world: World, clients: tuple[httpx.Client, httpx.Client], method: str, path: str
) -> None:
    operation = DOCUMENT["paths"][path][method.lower()]
    named = [one for one in operation.get("parameters", ()) if one["in"] == "path"]
    asked = [one for one in operation.get("parameters", ()) if one["in"] == "query"]
    content = operation.get("requestBody", {}).get("content", {})
    schema = content.get("application/json", {}).get("schema")
    known = BODIES.get((method, path))

    def place(name: str) -> st.SearchStrategy[str]:
        real = world.ids[name]
        unknown = f"{real.rpartition('_')[0]}_{'0' * 32}"
        return st.sampled_from([real] * 6 + [unknown]) | texts.filter(lambda text: text not in ("", ".", ".."))

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        places=st.fixed_dictionaries({one["name"]: place(one["name"]) for one in named}),
        query=st.fixed_dictionaries({}, optional={one["name"]: allowed(one.get("schema", {})) for one in asked}),
        body=st.none()
        if not content
        else st.one_of(st.just(known), *([allowed(schema)] * 5 if schema else [anything])),
    )
    def tried(places: dict[str, str], query: dict[str, Any], body: Any) -> None:
        url = path.format(**{name: quote(text, safe="") for name, text in places.items()})
        if query:
            spelt = {name: text if isinstance(text, str) else json.dumps(text) for name, text in query.items()}
            url += f"?{httpx.QueryParams(spelt)}"
        ours, theirs = clients
        for http in (theirs, ours):
            status, error = ask(http, method, url, body)
            assert status < 500 or status in (501, 503), (method, url, body, error)
            if status >= 400:
                assert error["type"] == "error", error
                assert error["error"]["type"], error
                assert error["error"]["message"], error
                assert error["request_id"].startswith("req_"), error
            elif http is theirs:
                shown = [name for name, text in places.items() if text == world.ids[name] and "_" in text]
                assert not shown or path.startswith("/v1/user_limits"), (method, url, body)

    tried()
