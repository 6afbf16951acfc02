"""Faults that the model server is asked for, as clients see them, and the life of its process."""

from __future__ import annotations

import json
import math
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from support.model_server import ModelServerProcess, started

HELLO = "Hello. How can I help you?"
EXAMPLE = Path(__file__).parents[2] / "examples" / "model_server_script.yaml"
VERSION = {"anthropic-version": "2023-06-01"}


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServerProcess]:
    with started() as process:
        yield process


def chat(server: ModelServerProcess, model: str, *, stream: bool = False, retries: int = 0, **headers: str) -> Any:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="sk-any", max_retries=retries, timeout=10)
    named = {f"x-model-server-{name.replace('_', '-')}": value for name, value in headers.items()}
    messages: Any = [{"role": "user", "content": "hello"}]
    answer = client.chat.completions.create(model=model, messages=messages, stream=stream, extra_headers=named)
    return list(answer) if stream else answer


def claude(server: ModelServerProcess, model: str, *, stream: bool = False) -> Any:
    client = anthropic.Anthropic(base_url=server.url, api_key="sk-any", max_retries=0, timeout=10)
    answer = client.messages.create(
        model=model, max_tokens=50, messages=[{"role": "user", "content": "hello"}], stream=stream
    )
    return list(answer) if stream else answer


def raw_stream(server: ModelServerProcess, path: str, model: str) -> Iterator[bytes]:
    body = {"model": model, "max_tokens": 50, "stream": True, "messages": [{"role": "user", "content": "hello"}]}
    with httpx.stream("POST", f"{server.url}{path}", json=body, headers=VERSION, timeout=10) as answer:
        yield from answer.iter_raw()


@pytest.mark.parametrize("stream", [False, True])
def test_errors_in_each_wires_shape(server: ModelServerProcess, stream: bool) -> None:
    with pytest.raises(openai.InternalServerError) as from_openai:
        chat(server, "gpt-5+error-503", stream=stream)
    assert (from_openai.value.status_code, from_openai.value.type) == (503, "server_error")
    with pytest.raises(anthropic.APIStatusError) as from_anthropic:
        claude(server, "error-529", stream=stream)
    assert from_anthropic.value.status_code == 529
    assert from_anthropic.value.body["error"]["type"] == "overloaded_error"  # type: ignore[index]
    with pytest.raises(openai.NotFoundError) as typed:
        chat(server, "m", error="404", error_type="model_gone")
    assert typed.value.type == "model_gone"


def test_rate_limit_says_when_to_come_back(server: ModelServerProcess) -> None:
    with pytest.raises(openai.RateLimitError) as limited:
        chat(server, "rate-limit-7")
    assert limited.value.response.headers["retry-after"] == "7"
    assert limited.value.code == "rate_limit_exceeded"
    with pytest.raises(anthropic.RateLimitError, match="rate_limit_error"):
        claude(server, "m+rate-limit")


def test_counted_fault_lets_a_retry_through(server: ModelServerProcess) -> None:
    model = "counted+error-500x1"
    assert chat(server, model, retries=1).choices[0].message.content == HELLO
    with pytest.raises(openai.InternalServerError):
        chat(server, "another+error-500x1")


def test_error_in_the_middle_of_a_stream(server: ModelServerProcess) -> None:
    with pytest.raises(openai.APIError, match="Error 529, as asked"):
        chat(server, "error-529@3", stream=True)
    with pytest.raises(anthropic.APIStatusError, match="overloaded_error"):
        claude(server, "error-529@3", stream=True)
    assert b"".join(raw_stream(server, "/v1/messages", "error-529@3")).count(b"event: ") == 4


def test_cut_streams_and_bodies(server: ModelServerProcess) -> None:
    received = b""

    def read_on() -> None:
        nonlocal received
        for data in raw_stream(server, "/v1/chat/completions", "cut-4"):
            received += data

    with pytest.raises(httpx.RemoteProtocolError):
        read_on()
    assert received.count(b"data: ") == 4
    with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
        list(raw_stream(server, "/v1/messages", "cut-0"))
    with pytest.raises(openai.APIConnectionError):
        chat(server, "cut-1")


def test_stalled_stream_stays_open(server: ModelServerProcess) -> None:
    body = {"model": "stall-2", "stream": True, "messages": [{"role": "user", "content": "hello"}]}
    received = b""
    timeout = httpx.Timeout(5, read=2)

    def read_on() -> None:
        nonlocal received
        with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body, timeout=timeout) as answer:
            for data in answer.iter_raw():
                received += data

    with pytest.raises(httpx.ReadTimeout):
        read_on()
    assert received.count(b"data: ") == 2


@pytest.mark.parametrize(("path", "mark"), [("/v1/chat/completions", b"[DONE]"), ("/v1/messages", b"message_stop")])
def test_stream_in_single_bytes_is_the_same_stream(server: ModelServerProcess, path: str, mark: bytes) -> None:
    pieces = list(raw_stream(server, path, "chunk-1"))
    whole = b"".join(raw_stream(server, path, "chunk-100000"))
    assert mark in b"".join(pieces)
    assert b"".join(pieces).count(b"data: ") == whole.count(b"data: ")
    assert len(pieces) > 10 * len(list(raw_stream(server, path, "plain")))


def test_sdks_read_streams_in_small_pieces(server: ModelServerProcess) -> None:
    deltas = [chunk.choices[0].delta.content or "" for chunk in chat(server, "chunk-3", stream=True)]
    assert "".join(deltas) == HELLO
    assert claude(server, "chunk-3", stream=True)[-1].type == "message_stop"


def test_malformed_answers(server: ModelServerProcess) -> None:
    with pytest.raises(json.JSONDecodeError):
        chat(server, "m", malformed="true")
    for call in (chat, claude):
        with pytest.raises(json.JSONDecodeError):
            call(server, "malformed", stream=True)


def test_waits_before_the_first_byte_and_between_tokens(server: ModelServerProcess) -> None:
    begun = time.monotonic()
    chat(server, "m", latency_ms="200")
    assert time.monotonic() - begun >= 0.2
    begun = time.monotonic()
    chat(server, "tokens-20", stream=True)  # 7 tokens
    assert time.monotonic() - begun >= 6 / 20


def test_faults_on_embeddings(server: ModelServerProcess) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="sk-any", max_retries=0)
    with pytest.raises(openai.RateLimitError):
        client.embeddings.create(model="e+rate-limit", input="x")
    for _ in range(2):
        short = client.embeddings.create(model="e+dimension-9+missing", input=["x", "y"], encoding_format="float")
        assert [len(item.embedding) for item in short.data] == [9]
    first = client.embeddings.create(model="e+nanx1", input="x", encoding_format="float").data[0].embedding
    again = client.embeddings.create(model="e+nanx1", input="x", encoding_format="float").data[0].embedding
    assert math.isnan(first[0])
    assert not math.isnan(again[0])


def test_command_line_faults_give_way_to_headers() -> None:
    with started("--error", "503", "--latency-ms", "1") as server:
        with pytest.raises(openai.InternalServerError):
            chat(server, "m")
        with pytest.raises(openai.RateLimitError):
            chat(server, "m", rate_limit="1")
        with pytest.raises(openai.APIStatusError) as teapot:
            chat(server, "m", error="418")
        assert teapot.value.status_code == 418


def test_example_script_over_the_wire() -> None:
    with started("--script", str(EXAMPLE)) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="sk-any", max_retries=0)
        story = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Tell me a story"}])
        assert "elephant" in (story.choices[0].message.content or "")
        assert story.usage is not None
        assert story.usage.prompt_tokens == 2000
        assert story.usage.prompt_tokens_details is not None
        assert story.usage.prompt_tokens_details.cached_tokens == 1536
        assert [model.id for model in client.models.list()] == ["support-model", "text-embedding-3-small"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ends_cleanly_with_streams_open(number: signal.Signals) -> None:
    with started() as server:
        begun = threading.Event()

        def hang() -> None:
            try:
                for _ in raw_stream(server, "/v1/chat/completions", "stall-1"):
                    begun.set()
            except httpx.HTTPError:
                pass

        reader = threading.Thread(target=hang)
        reader.start()
        assert begun.wait(10)
        server.process.send_signal(number)
        assert server.process.wait(10) == 0
        reader.join(10)
        assert server.process.stderr is not None
        assert server.process.stderr.read() == ""


def refused(*options: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "trunkline.model_server", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout == ""
    return done.returncode, done.stderr


def test_what_cannot_start_says_why(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        status, text = refused("--port", port)
    assert status == 1
    assert text.startswith(f"error: cannot listen on 127.0.0.1:{port} (Address already in use); choose another")
    script = tmp_path / "s.yaml"
    script.write_text("rules: [{name: x, replay: y}]")
    status, text = refused("--port", "0", "--script", str(script))
    assert (status, text.count("\n")) == (1, 1)
    assert text.startswith(f"error: {script}: rule 1 (x): unknown key `replay`")
    status, text = refused("--port", "0", "--error", "200")
    assert status == 2
    assert "--error: Input should be greater than or equal to 400" in text
