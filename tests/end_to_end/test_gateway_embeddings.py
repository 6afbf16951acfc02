"""Embeddings, token counts and model lists through the gateway, by the unmodified SDKs."""

from __future__ import annotations

import base64
import struct
from typing import Any

import openai
import pytest

from support.stack import Stack, eventually


def test_embeddings_are_the_providers_own(stack: Stack) -> None:
    """The SDK asks for base64 by itself and decodes it; floats, dimensions and many inputs pass as well."""
    text, key_id = stack.inference_key()
    client = stack.openai(text)
    answer = client.embeddings.create(model="gpt", input=["the red elephant", "the red elephant", "quite another"])
    vectors = [entry.embedding for entry in answer.data]
    assert len(vectors[0]) == 384
    assert vectors[0] == vectors[1] != vectors[2]
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 0

    short = client.embeddings.create(model="gpt", input="the red elephant", dimensions=8, encoding_format="float")
    assert len(short.data[0].embedding) == 8
    raw: Any = client.embeddings.with_raw_response.create(
        model="gpt", input="x", dimensions=2, encoding_format="base64"
    )
    packed = base64.b64decode(raw.http_response.json()["data"][0]["embedding"])
    assert len(struct.unpack("<2f", packed)) == 2
    assert raw.headers["x-trunkline-upstream"] == "oai/gpt-scripted"

    assert eventually(lambda: stack.usage(key_id=key_id)["requests"] == 3)
    assert stack.usage(key_id=key_id)["input_tokens"] == answer.usage.prompt_tokens + short.usage.prompt_tokens + 1
    rows = stack.rows("select distinct wire, model from trunkline.usage where wire = 'embeddings'")
    assert rows == [{"wire": "embeddings", "model": "gpt"}]


def test_a_provider_without_embeddings_says_so(stack: Stack) -> None:
    with pytest.raises(openai.BadRequestError, match="has no embeddings"):
        stack.openai().embeddings.create(model="claude", input="x")


def test_a_key_may_embed_only_with_its_models(stack: Stack) -> None:
    text, _ = stack.inference_key(models=["claude"])
    with pytest.raises(openai.PermissionDeniedError, match="may not use the model"):
        stack.openai(text).embeddings.create(model="gpt", input="x")


def test_tokens_are_counted_by_the_provider_or_estimated(stack: Stack) -> None:
    client = stack.anthropic()
    messages: Any = [{"role": "user", "content": "count the tokens of this"}]
    counted = client.messages.with_raw_response.count_tokens(model="claude", messages=messages)
    assert counted.parse().input_tokens > 0
    assert "x-trunkline-estimated" not in counted.headers
    estimated = client.messages.with_raw_response.count_tokens(model="gpt", messages=messages)
    assert estimated.parse().input_tokens > 0
    assert estimated.headers["x-trunkline-estimated"] == "true"


def test_models_are_listed_to_both_sdks(stack: Stack) -> None:
    assert {"gpt", "claude"} <= {model.id for model in stack.openai().models.list()}
    assert {"gpt", "claude"} <= {model.id for model in stack.anthropic().models.list()}
    assert stack.openai().models.retrieve("gpt").id == "gpt"
    with stack.http() as http:
        listed = http.get("/v1beta/models", headers={"x-goog-api-key": stack.key})
    assert {"models/gpt", "models/claude"} <= {model["name"] for model in listed.json()["models"]}
