"""No key is ever in a log, whatever goes wrong, nor in what a client is told of another's."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.postgres import copied_database, temporary_home
from support.stack import PROVIDER_KEY, Stack, eventually, serving
from trunkline.store.embedded import ConnectionInfo

WRONG = "sk-tl-wrong-key-0123456789-abcdefghijklmnopq"
ASK: Any = {"model": "", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}
ROUTES = ("/v1/chat/completions", "/v1/messages")


class Parrot(BaseHTTPRequestHandler):
    """A provider that refuses each call and repeats the credentials that it was sent, as the model names it."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"] or 0)).decode()
        heard = " ".join(f"{name}: {value}" for name, value in self.headers.items()) + f" {self.path}"
        kind = "application/json"
        if "parrot-stream" in body or "parrot-stream" in self.path:
            status, kind = 200, "text/event-stream"
            answer = (
                f"event: error\ndata: {json.dumps({'type': 'error', 'error': {'type': 'x', 'message': heard}})}\n\n"
            )
        elif "parrot-odd" in body or "parrot-odd" in self.path:
            status, answer = 200, json.dumps({"choices": heard, "content": heard, "candidates": heard, "output": heard})
        else:
            status, answer = 401, json.dumps({"error": {"message": f"Incorrect API key: {heard}", "code": heard}})
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(answer.encode())))
        self.end_headers()
        self.wfile.write(answer.encode())

    def log_message(self, *_: object) -> None:
        pass


@dataclass(frozen=True)
class Betrayed:
    """A stack in front of the parrot, and the logs of its processes."""

    stack: Stack
    home: Path

    def logs(self) -> str:
        return "".join(path.read_text() for path in self.home.glob("*.log"))


@pytest.fixture(scope="module")
def betrayed(postgres: ConnectionInfo, migrated_template: str) -> Iterator[Betrayed]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Parrot)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    patch = pytest.MonkeyPatch()
    patch.setenv("RUST_LOG", "debug")
    try:
        with (
            temporary_home() as home,
            copied_database(postgres, migrated_template) as database,
            serving(database, f"http://127.0.0.1:{server.server_address[1]}", Path(home)) as running,
        ):
            yield Betrayed(running, Path(home))
    finally:
        patch.undo()
        server.shutdown()
        thread.join()
        server.server_close()


def silent(betrayed: Betrayed, answers: list[httpx.Response], *, line: str) -> None:
    """Assert that neither logs nor answers hold a key; `line` shows that something was logged of it."""
    assert eventually(lambda: line in betrayed.logs()), line
    logs = betrayed.logs()
    for secret in (PROVIDER_KEY, betrayed.stack.key, WRONG):
        assert secret not in logs
        for answer in answers:
            assert secret not in answer.text + str(answer.headers), answer.request.url


@pytest.mark.parametrize("how", ["parrot", "parrot-stream", "parrot-odd"])
def test_a_provider_that_repeats_our_key_betrays_it_to_nobody(betrayed: Betrayed, how: str) -> None:
    answers = []
    with betrayed.stack.http() as http:
        for path in ROUTES:
            for provider in ("oai", "ant", "gem"):
                ask = ASK | {"model": f"{provider}/{how}"}
                answers += [http.post(path, json=ask | {"stream": stream}) for stream in (False, True)]
        passed_on = [
            http.post("/oai/v1/chat/completions", json=ASK | {"model": how}),
            http.post("/v1/embeddings", json={"model": f"oai/{how}", "input": "x"}),
        ]
    # What a provider gives out as an answer is passed on as it is; what it says in refusing, or cannot be read, is not.
    answers = [answer for answer in answers if answer.is_error or "event-stream" in answer.headers["content-type"]]
    answers += [answer for answer in passed_on if answer.is_error]
    assert len(answers) == {"parrot": 14, "parrot-stream": 12, "parrot-odd": 10}[how]
    if how == "parrot":
        assert any("********" in answer.text for answer in answers), (
            "the provider's own words are told, but for the key"
        )
    silent(betrayed, answers, line="" if how == "parrot" else "a provider")


def test_a_key_in_a_url_or_a_wrong_one_is_not_logged(betrayed: Betrayed) -> None:
    generate = "/v1beta/models/gemini:generateContent"
    contents = {"contents": [{"parts": [{"text": "hello"}]}]}
    answers = []
    # A call that is refused before its body was read may end its connection.
    with httpx.Client(base_url=betrayed.stack.base_url, timeout=20, headers={"connection": "close"}) as http:
        for key in (WRONG, betrayed.stack.key):
            for path, body in ((generate, contents), ("/gem/v1beta/models/x:generateContent", contents)):
                answers.append(http.post(f"{path}?key={key}", json=body))
                answers.append(http.post(f"{path}?key={key}", json=body, headers={"x-goog-api-key": key}))
            answers.append(http.get(f"/v1/models?key={key}", headers={"authorization": f"Bearer {key}"}))
            answers.append(http.get(f"/v1/agents?key={key}", headers={"authorization": f"Bearer {key}"}))
            answers.append(http.post("/v1/keys", content=f"{{{key}", headers={"x-api-key": key}))
    silent(betrayed, answers, line="")
