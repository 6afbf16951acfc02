"""The SDKs with a provider's own paths as their base: everything they do goes through with our key."""

from __future__ import annotations

from typing import Any

import anthropic
import openai
import pytest

from support.stack import PROVIDER_KEY, Stack, eventually

SAY: Any = [{"role": "user", "content": "count the tokens"}]


def openai_at(stack: Stack, path: str, key: str | None = None) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{stack.base_url}/{path}", api_key=key or stack.key, max_retries=0, timeout=30)


def anthropic_at(stack: Stack, path: str, key: str | None = None) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=f"{stack.base_url}/{path}", api_key=key or stack.key, max_retries=0, timeout=30)


def test_the_openai_sdk_works_whole_at_a_providers_path(stack: Stack) -> None:
    text, key_id = stack.inference_key()
    for path in ("oai/v1", "oai"):
        client = openai_at(stack, path, text)
        whole = client.chat.completions.create(model="gpt-scripted", messages=SAY)
        assert whole.choices[0].message.content == "Counted."
        chunks = list(client.chat.completions.create(model="gpt-scripted", messages=SAY, stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Counted."
        assert all(chunk.usage is None for chunk in chunks), "it was not asked for"
        assert client.responses.create(model="gpt-scripted", input="count the tokens").output_text == "Counted."
        assert len(client.embeddings.create(model="vectors", input="x", dimensions=4).data[0].embedding) == 4
    # 2,000 input tokens a call, streamed or not, and one for each embedding.
    assert eventually(lambda: stack.usage(key_id=key_id)["requests"] == 8)
    assert stack.usage(key_id=key_id)["input_tokens"] == 12_002
    seen = stack.asked()[-8:]
    assert {entry["headers"]["authorization"] for entry in seen} == {f"Bearer ***{PROVIDER_KEY[-4:]}"}
    assert text not in str(seen)


def test_the_anthropic_sdk_works_whole_at_a_providers_path(stack: Stack) -> None:
    text, key_id = stack.inference_key()
    client = anthropic_at(stack, "ant", text)
    whole = client.messages.create(model="claude-scripted", max_tokens=50, messages=SAY)
    assert whole.content[0].text == "Counted."  # type: ignore[union-attr]
    with client.messages.stream(model="claude-scripted", max_tokens=50, messages=SAY) as stream:
        assert "".join(stream.text_stream) == "Counted."
    assert client.messages.count_tokens(model="claude-scripted", messages=SAY).input_tokens > 0
    assert eventually(lambda: stack.usage(key_id=key_id)["requests"] == 3)
    assert stack.usage(key_id=key_id)["output_tokens"] == 22


def test_the_account_needs_a_scope_that_tenants_do_not_have(stack: Stack) -> None:
    """The provider's files, batches and models are one account's, whoever's key is used."""
    assert {model.id for model in openai_at(stack, "oai/v1").models.list()}
    text, _ = stack.inference_key()
    with pytest.raises(openai.PermissionDeniedError, match="needs the scope 'passthrough'"):
        openai_at(stack, "oai/v1", text).models.list()
    with pytest.raises(openai.PermissionDeniedError, match="scope 'passthrough'"):
        openai_at(stack, "oai/v1", text).files.list()
    with stack.http() as http:
        stranger = http.post("/v1/tenants", json={"name": "passthrough-stranger"}).json()["key"]
    with pytest.raises(openai.PermissionDeniedError, match="scope 'passthrough'"):
        openai_at(stack, "oai/v1", stranger).files.list()
    with stack.http(stranger) as http:
        given = http.post("/v1/keys", json={"name": "more", "scopes": ["inference", "passthrough"]})
    assert given.status_code == 403


def test_keys_with_models_and_budgets_have_them_here_too(stack: Stack) -> None:
    text, _ = stack.inference_key(models=["gpt-scripted"])
    client = openai_at(stack, "oai/v1", text)
    assert client.chat.completions.create(model="gpt-scripted", messages=SAY).choices
    with pytest.raises(openai.PermissionDeniedError, match="may not use the model 'other'"):
        client.chat.completions.create(model="other", messages=SAY)
    spent, _ = stack.inference_key(budget_usd=0)
    with pytest.raises(openai.RateLimitError):
        openai_at(stack, "oai/v1", spent).chat.completions.create(model="gpt-scripted", messages=SAY)


def test_a_providers_refusal_is_its_own(stack: Stack) -> None:
    with pytest.raises(openai.NotFoundError, match="Unknown request URL: GET /v1/files"):
        openai_at(stack, "oai/v1").files.list()
    with pytest.raises(openai.BadRequestError):
        openai_at(stack, "oai/v1").chat.completions.create(model="gpt-scripted", messages=[])
