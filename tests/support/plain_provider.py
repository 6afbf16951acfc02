"""A provider with routes that the scripted model server does not have: images, completions, moderations, speech."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Asked:
    """A request that came."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class PlainProvider:
    """Its base URL, without `/v1`, and what it was asked, oldest first."""

    url: str
    asked: list[Asked] = field(default_factory=list)

    def count(self, text: str) -> int:
        """How often a request held this text."""
        return sum(text.encode() in asked.body for asked in self.asked)


SPEECH = bytes(range(256)) * 4
"""No text in any coding."""


def _answer(asked: Asked, number: int) -> tuple[int, str, bytes]:
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    if asked.path.endswith("/audio/speech"):
        return 200, "audio/mpeg", SPEECH
    if asked.path.endswith("/images/generations"):
        image = base64.b64encode(b"i" * int(json.loads(asked.body).get("n", 1)) * 1_000_000).decode()
        return 200, "application/json", json.dumps({"created": number, "data": [{"b64_json": image}]}).encode()
    if asked.path.endswith("/completions") and not asked.path.endswith("/chat/completions"):
        said = {"id": f"cmpl-{number}", "choices": [{"index": 0, "text": "hello"}], "usage": usage}
        return 200, "application/json", json.dumps(said).encode()
    if asked.path.endswith("/chat/completions"):
        message = {"role": "assistant", "content": asked.body.decode("utf-8", "replace")}
        said = {
            "id": f"chatcmpl-{number}",
            "object": "chat.completion",
            "model": "plain",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": usage,
        }
        return 200, "application/json", json.dumps(said).encode()
    if asked.path.endswith("/files"):
        return 201, "application/json", json.dumps({"id": f"file-{number}"}).encode()
    return 200, "application/json", json.dumps({"id": f"any-{number}", "results": []}).encode()


@contextlib.contextmanager
def plain_provider() -> Iterator[PlainProvider]:
    """Serve until the block ends."""
    provider = PlainProvider("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            if headers.get("transfer-encoding") == "chunked":
                body = b"".join(self.chunks())
            else:
                body = self.rfile.read(int(headers.get("content-length", 0)))
            asked = Asked(self.path, headers, body)
            provider.asked.append(asked)
            status, kind, answer = _answer(asked, len(provider.asked))
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def chunks(self) -> Iterator[bytes]:
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base class
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        provider.url = f"http://127.0.0.1:{server.server_port}"
        serving = threading.Thread(target=server.serve_forever, daemon=True)
        serving.start()
        try:
            yield provider
        finally:
            server.shutdown()
            serving.join()
