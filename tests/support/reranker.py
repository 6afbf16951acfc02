"""A reranker over HTTP on a port of its own: it counts words, and does what it is told to do wrong."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class RerankServer:
    """What it was asked, in order, and how it answers: with `status`, after `delay_s`, or with `answer` as it is."""

    url: str
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    status: int = 200
    delay_s: float = 0.0
    answer: Any = None


@contextmanager
def rerank_server() -> Iterator[RerankServer]:
    """Serve until the block ends. A document's relevance is how often the query stands in it, a hundredth each."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            served.asked.append(body)
            served.keys.append(self.headers["authorization"])
            time.sleep(served.delay_s)
            relevance = [document.lower().count(body["query"].lower()) / 100 for document in body["documents"]]
            ordered = sorted(range(len(relevance)), key=lambda index: -relevance[index])
            answer = {"results": [{"index": index, "relevance_score": relevance[index]} for index in ordered]}
            content = json.dumps(answer if served.answer is None else served.answer).encode()
            self.send_response(served.status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the library's name)
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served = RerankServer(f"http://127.0.0.1:{server.server_port}/v1/rerank")
    thread = threading.Thread(target=server.serve_forever, name="reranker")
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
