"""What the headers of an answer tell of its call, as the unmodified clients show them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import openai
import pytest

from support.stack import Stack, eventually

COUNT: Any = [{"role": "user", "content": "count the tokens"}]


def row(stack: Stack, call: str) -> dict[str, Any]:
    """What is recorded of a call, as soon as it is."""
    query = "select cost_usd, retries from trunkline.usage where id::text = %s::uuid::text"
    name = call.removeprefix("call_")
    assert eventually(lambda: len(stack.rows(query, name)) == 1)
    return stack.rows(query, name)[0]


def told(headers: Any, *, upstream: str) -> None:
    assert headers["x-trunkline-call"].startswith("call_")
    assert headers["x-trunkline-upstream"] == upstream
    assert headers["x-trunkline-retries"] == "0"
    assert headers["x-trunkline-memory"] == "none"
    assert int(headers["x-trunkline-overhead-us"]) > 0


def test_a_whole_answer_tells_what_its_usage_row_says(stack: Stack) -> None:
    by_openai = stack.openai().chat.completions.with_raw_response.create(model="gpt", messages=COUNT)
    by_anthropic = stack.anthropic().messages.with_raw_response.create(model="claude", max_tokens=99, messages=COUNT)
    across = stack.openai().chat.completions.with_raw_response.create(model="claude", messages=COUNT)
    for raw, upstream in (
        (by_openai, "oai/gpt-scripted"),
        (by_anthropic, "ant/claude-scripted"),
        (across, "ant/claude-scripted"),
    ):
        told(raw.headers, upstream=upstream)
        cost = Decimal(raw.headers["x-trunkline-cost"])
        assert cost == row(stack, raw.headers["x-trunkline-call"])["cost_usd"] > 0


def test_a_stream_tells_all_but_its_cost(stack: Stack) -> None:
    by_openai = stack.openai().chat.completions.with_raw_response.create(model="gpt", messages=COUNT, stream=True)
    assert list(by_openai.parse())
    by_anthropic = stack.anthropic().messages.with_raw_response.create(
        model="claude", max_tokens=99, messages=COUNT, stream=True
    )
    assert list(by_anthropic.parse())
    for raw, upstream in ((by_openai, "oai/gpt-scripted"), (by_anthropic, "ant/claude-scripted")):
        told(raw.headers, upstream=upstream)
        assert "x-trunkline-cost" not in raw.headers


def test_other_routes_tell_the_same(stack: Stack) -> None:
    embedded = stack.openai().embeddings.with_raw_response.create(model="gpt", input="a word")
    told(embedded.headers, upstream="oai/gpt-scripted")
    with stack.http() as http:
        passed = http.post("/oai/v1/chat/completions", json={"model": "gpt-scripted", "messages": COUNT})
        counted = http.post("/v1/messages/count_tokens", json={"model": "claude", "messages": COUNT})
    told(passed.headers, upstream="oai/gpt-scripted")
    told(counted.headers, upstream="ant/claude-scripted")
    assert counted.headers["x-trunkline-cost"] == "0"


def test_what_has_no_price_tells_no_cost(stack: Stack) -> None:
    raw = stack.openai().chat.completions.with_raw_response.create(model="oai/nobody-knows-its-price", messages=COUNT)
    told(raw.headers, upstream="oai/nobody-knows-its-price")
    assert "x-trunkline-cost" not in raw.headers
    assert row(stack, raw.headers["x-trunkline-call"])["cost_usd"] is None


def test_an_error_tells_its_call_and_how_often_it_was_tried(stack: Stack) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        stack.openai().chat.completions.create(model="nothing-serves-this", messages=COUNT)
    assert unknown.value.response.headers["x-trunkline-call"].startswith("call_")
    assert "x-trunkline-retries" not in unknown.value.response.headers
    with pytest.raises(openai.AuthenticationError) as stranger:
        stack.openai("sk-tl-wrong").chat.completions.create(model="gpt", messages=COUNT)
    assert stranger.value.response.headers["x-trunkline-call"].startswith("call_")
    with pytest.raises(openai.InternalServerError) as failed:
        stack.openai().chat.completions.create(model="oai/error-500", messages=COUNT)
    headers = failed.value.response.headers
    assert headers["x-trunkline-retries"] == "1"
    assert row(stack, headers["x-trunkline-call"])["retries"] == 1
