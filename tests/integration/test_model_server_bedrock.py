"""The model server's Bedrock wire over real sockets, with Amazon's unmodified client: signatures and event streams."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import botocore.session
import httpx
import pytest
from botocore.config import Config
from botocore.eventstream import ChecksumMismatch
from botocore.exceptions import ClientError, EventStreamError

from support.model_server import ModelServerProcess, started

HELLO = "Hello. How can I help you?"
MEMORY = """<trunkline-memory>
<memory block="customer" scope="user">
unknown: preferences, recent_purchases
required but unknown: name
</memory>
</trunkline-memory>"""
SAID = "My name is Ada Lovelace and I bought a red kettle."
NOTED = "Noted: your name is Ada Lovelace; you bought a red kettle."
OPERATIONS = {
    "operations": [
        {"op": "set", "block": "customer", "field": "name", "value": "Ada Lovelace"},
        {"op": "append", "block": "customer", "field": "recent_purchases", "value": "red kettle"},
    ]
}
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"operations": {"type": "array"}}}
TOOLS = {"tools": [{"toolSpec": {"name": "memory_update", "inputSchema": {"json": SCHEMA}}}]}
CLAUDE = "eu.anthropic.claude-sonnet-4-5-20250929-v1:0"
LONG = "The elephant forgets nothing. " * 400  # about 3000 tokens


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServerProcess]:
    with started() as process:
        yield process


def client_of(server: ModelServerProcess, key: str = "AKIDEXAMPLE") -> Any:
    return botocore.session.Session().create_client(
        "bedrock-runtime",
        region_name="eu-central-1",
        endpoint_url=server.url,
        aws_access_key_id=key,
        aws_secret_access_key="secret",
        config=Config(retries={"total_max_attempts": 1}),
    )


@pytest.fixture
def bedrock(server: ModelServerProcess) -> Any:
    return client_of(server)


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": [{"text": block} if isinstance(block, str) else block for block in blocks]}


def streamed(bedrock: Any, **request: Any) -> list[tuple[str, Any]]:
    events = bedrock.converse_stream(**request)["stream"]
    return [(name, value) for event in events for name, value in event.items()]


def test_answers_with_usage(bedrock: Any) -> None:
    answer = bedrock.converse(modelId=CLAUDE, messages=[user("hello")])
    assert answer["output"]["message"] == {"role": "assistant", "content": [{"text": HELLO}]}
    assert (answer["stopReason"], answer["usage"]["outputTokens"]) == ("end_turn", 7)
    assert answer["usage"]["totalTokens"] == answer["usage"]["inputTokens"] + 7


def test_streams(bedrock: Any) -> None:
    events = streamed(bedrock, modelId=CLAUDE, messages=[user("hello")])
    assert [name for name, _ in events if name != "contentBlockDelta"] == [
        "messageStart",
        "contentBlockStop",
        "messageStop",
        "metadata",
    ]
    deltas = [value["delta"]["text"] for name, value in events if name == "contentBlockDelta"]
    assert "".join(deltas) == HELLO
    assert len(deltas) > 3
    assert events[-1][1]["usage"]["outputTokens"] == 7


def test_tool_turn(bedrock: Any) -> None:
    request: dict[str, Any] = {"modelId": CLAUDE, "system": [{"text": MEMORY}], "toolConfig": TOOLS}
    called = bedrock.converse(messages=[user(SAID)], **request)
    assert called["stopReason"] == "tool_use"
    use = called["output"]["message"]["content"][0]["toolUse"]
    assert (use["name"], use["input"]) == ("memory_update", OPERATIONS)
    events = streamed(bedrock, messages=[user(SAID)], **request)
    pieces = [value["delta"]["toolUse"]["input"] for name, value in events if name == "contentBlockDelta"]
    assert json.loads("".join(pieces)) == OPERATIONS

    def result(**more: Any) -> str:
        given = {"toolResult": {"toolUseId": use["toolUseId"], **more}}
        messages = [user(SAID), called["output"]["message"], user(given)]
        return str(bedrock.converse(messages=messages, **request)["output"]["message"]["content"][0]["text"])

    assert result(content=[{"text": "ok"}]) == NOTED
    failed = result(content=[{"text": "the block is full"}], status="error")
    assert failed == "I could not store that: the block is full"


def test_limits_and_stops(bedrock: Any) -> None:
    short = bedrock.converse(modelId="m", messages=[user("hello")], inferenceConfig={"maxTokens": 2})
    assert (short["output"]["message"]["content"], short["stopReason"]) == ([{"text": "Hello. H"}], "max_tokens")
    stopped = bedrock.converse(modelId="m", messages=[user("hello")], inferenceConfig={"stopSequences": ["can"]})
    assert stopped["stopReason"] == "stop_sequence"


def test_caches_up_to_cache_points(bedrock: Any) -> None:
    def used(text: str) -> tuple[int, int]:
        system = [{"text": LONG}, {"cachePoint": {"type": "default"}}]
        usage = bedrock.converse(modelId="cache-test", system=system, messages=[user(text)])["usage"]
        return usage["cacheWriteInputTokens"], usage["cacheReadInputTokens"]

    written, read = used("one")
    assert (written > 2900, read) == (True, 0)
    assert used("two") == (0, written)


USE = {"toolUse": {"toolUseId": "t1", "name": "f", "input": {}}}
BAD: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "The messages field is required"),
    ({"messages": [{"role": "assistant", "content": [{"text": "x"}]}]}, "must start with a user message"),
    ({"messages": [user("x"), user("y")]}, "must alternate between user and assistant"),
    ({"messages": [user(" ")]}, "ContentBlock object at messages.0.content.0 is blank"),
    (
        {"messages": [user("x"), {"role": "assistant", "content": [USE]}, user("y")]},
        "Expected toolResult blocks at messages.2.content for the following Ids: t1",
    ),
    (
        {
            "messages": [
                user("x"),
                {"role": "assistant", "content": [USE]},
                user({"toolResult": {"toolUseId": "t1", "content": []}}),
            ]
        },
        "The toolConfig field must be defined",
    ),
    ({"messages": [user("x")], "inferenceConfig": {"temperature": 1.5}}, "less than or equal to 1"),
]


@pytest.mark.parametrize(("request_", "message"), BAD)
def test_bad_requests(bedrock: Any, request_: dict[str, Any], message: str) -> None:
    with pytest.raises(ClientError) as refused:
        bedrock.converse(modelId="m", **request_)
    assert refused.value.response["Error"]["Code"] == "ValidationException"
    assert message in refused.value.response["Error"]["Message"]


def test_faults(bedrock: Any) -> None:
    for model, code in [("error-503", "ServiceUnavailableException"), ("rate-limit", "ThrottlingException")]:
        with pytest.raises(ClientError) as refused:
            bedrock.converse(modelId=model, messages=[user("hello")])
        assert refused.value.response["Error"]["Code"] == code
    with pytest.raises(EventStreamError, match="throttlingException"):
        streamed(bedrock, modelId="error-429@3", messages=[user("hello")])
    with pytest.raises(ChecksumMismatch):
        streamed(bedrock, modelId="malformed", messages=[user("hello")])
    assert len(streamed(bedrock, modelId="chunk-3", messages=[user("hello")])) > 6


def signed(headers: str, service: str = "bedrock") -> str:
    scope = f"20261123/eu-central-1/{service}/aws4_request"
    return f"AWS4-HMAC-SHA256 Credential=A/{scope}, SignedHeaders={headers}, Signature={'0' * 64}"


@pytest.mark.parametrize(
    ("authorization", "date", "kind"),
    [
        ("", "20261123T101500Z", "IncompleteSignatureException"),
        (signed("host;x-amz-date", "s3"), "20261123T101500Z", "IncompleteSignatureException"),
        (signed("host"), "20261123T101500Z", "InvalidSignatureException"),
        (signed("host;x-amz-date"), "20261124T101500Z", "InvalidSignatureException"),
    ],
)
def test_requests_must_be_signed(server: ModelServerProcess, authorization: str, date: str, kind: str) -> None:
    headers = {"authorization": authorization, "x-amz-date": date}
    answer = httpx.post(f"{server.url}/model/m/converse", json={"messages": [user("hello")]}, headers=headers)
    assert (answer.status_code, answer.headers["x-amzn-errortype"]) == (403, kind)


def test_required_key() -> None:
    with started("--api-key", "AKIDRIGHT") as server:
        answer = client_of(server, "AKIDRIGHT").converse(modelId="m", messages=[user("hello")])
        assert answer["stopReason"] == "end_turn"
        with pytest.raises(ClientError) as refused:
            client_of(server, "AKIDWRONG").converse(modelId="m", messages=[user("hello")])
        assert refused.value.response["Error"]["Code"] == "UnrecognizedClientException"
        bearer = {"authorization": "Bearer AKIDRIGHT"}
        body = {"messages": [user("hello")]}
        assert httpx.post(f"{server.url}/model/m/converse", json=body, headers=bearer).status_code == 200
