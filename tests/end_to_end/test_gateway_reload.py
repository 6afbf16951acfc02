"""New settings under load, over real sockets: no call fails, and a bad file leaves the old ones in force."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.postgres import DatabaseUrls
from support.stack import PROVIDER_KEY, Stack, configured, eventually, serving


@pytest.fixture
def stack(database: DatabaseUrls, scripted_model: str, tmp_path: Path) -> Iterator[Stack]:
    with serving(database, scripted_model, tmp_path) as running:
        yield running


def write(stack: Stack, folder: Path, models: str = "", more: str = "", *, price: int = 10) -> None:
    text = (
        configured(stack.model_url).replace("models:\n", f"models:\n{models}").replace("input: 10,", f"input: {price},")
    )
    beside = folder / "trunkline.new"
    beside.write_text(text + more, encoding="utf-8")
    beside.replace(folder / "trunkline.yaml")


def status(stack: Stack, model: str) -> int:
    with stack.http() as http:
        body = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
        return http.post("/v1/chat/completions", json=body).status_code


def served(stack: Stack, model: str) -> bool:
    return status(stack, model) == 200


@contextmanager
def load(stack: Stack) -> Iterator[list[int]]:
    """Call without a pause, on one connection and on new ones; yield the statuses so far."""
    statuses: list[int] = []
    ended = threading.Event()

    def kept() -> None:
        with stack.http() as http:
            while not ended.is_set():
                body = {"model": "gpt", "messages": [{"role": "user", "content": "hello"}]}
                statuses.append(http.post("/v1/chat/completions", json=body).status_code)

    def new() -> None:
        while not ended.is_set():
            statuses.append(status(stack, "gpt"))

    threads = [threading.Thread(target=call) for call in (kept, new)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def test_new_settings_fail_no_call_and_a_bad_file_changes_nothing(stack: Stack, tmp_path: Path) -> None:
    with load(stack) as statuses:
        for number in range(3):
            write(stack, tmp_path, f"  new-{number}: {{provider: oai, model: gpt-scripted}}\n")
            assert eventually(partial(served, stack, f"new-{number}")), "it was not taken on"
            assert number == 0 or status(stack, f"new-{number - 1}") == 404, "what went is gone"
        write(stack, tmp_path, "  bad: {provider: nowhere, model: x}\n")
        log = tmp_path / "gateway.log"
        assert eventually(lambda: "was not taken on" in log.read_text())
        before = len(statuses)
        assert status(stack, "new-2") == 200
        assert eventually(lambda: len(statuses) > before + 20), "calls go on"
    assert set(statuses) == {200}
    (line,) = [line for line in log.read_text().splitlines() if "was not taken on" in line]
    assert "the settings of before stay" in line
    assert "'nowhere'" in line
    assert PROVIDER_KEY not in log.read_text()


def test_prices_timeouts_and_what_is_kept_are_taken_on_under_load(stack: Stack, tmp_path: Path) -> None:
    body = {"model": "gpt", "messages": [{"role": "user", "content": "the same again"}]}

    def headers() -> httpx.Headers:
        with stack.http() as http:
            return http.post("/v1/chat/completions", json=body).headers

    cost = float(headers()["x-trunkline-cost"])
    with load(stack) as statuses:
        write(stack, tmp_path, price=1_000_000)
        assert eventually(lambda: float(headers()["x-trunkline-cost"]) > 2 * cost), "the price is the new one"
        write(stack, tmp_path, more="cache: {store: memory}\ntimeouts: {ping_ms: 0}\nrecord: {bodies: all}\n")
        assert eventually(lambda: headers().get("x-trunkline-cache") == "hit")
        write(stack, tmp_path, more="ca_file: other.pem\n")
        assert eventually(lambda: "a restart takes on ca_file" in (tmp_path / "gateway.log").read_text())
        assert "x-trunkline-cache" not in headers()
    assert set(statuses) == {200}


def test_what_a_new_wildcard_serves_is_listed_and_answers(stack: Stack, tmp_path: Path) -> None:
    with stack.openai() as client:

        def listed() -> set[str]:
            return {model.id for model in client.models.list()}

        assert "mine/gpt-scripted" not in listed()
        write(stack, tmp_path, "  mine/*: {provider: oai, model: '*'}\n")
        assert eventually(lambda: "mine/gpt-scripted" in listed()), "of what a pattern serves, priced models are known"
        assert not any("*" in name for name in listed())
        assert client.models.retrieve("mine/gpt-scripted").id == "mine/gpt-scripted"
        messages: Any = [{"role": "user", "content": "hello"}]
        assert client.chat.completions.create(model="mine/gpt-scripted", messages=messages).choices
    limited, _ = stack.inference_key(models=["gpt"])
    with stack.openai(limited) as client:
        assert "mine/gpt-scripted" not in {model.id for model in client.models.list()}, "a key sees what it may use"


def test_a_hang_up_asks_for_the_settings(stack: Stack, tmp_path: Path) -> None:
    log = tmp_path / "gateway.log"
    said = log.read_text().count("was taken on")
    stack.gateway.send(signal.SIGHUP)
    assert eventually(lambda: log.read_text().count("was taken on") == said + 1)
    assert status(stack, "gpt") == 200
    assert stack.gateway.alive()


def test_a_stream_that_is_under_way_comes_to_its_end(stack: Stack, tmp_path: Path) -> None:
    with stack.openai() as client:
        message = {"role": "user", "content": "tell me a long story " * 20}
        stream = client.chat.completions.create(model="gpt", messages=[message], stream=True)  # type: ignore[list-item]
        first = next(iter(stream))
        write(stack, tmp_path, "  other: {provider: oai, model: gpt-scripted}\n")
        assert eventually(lambda: status(stack, "other") == 200)
        pieces = [first, *stream]
    assert pieces[-1].choices == [] or pieces[-1].choices[0].finish_reason == "stop"
