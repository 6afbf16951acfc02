"""A model in the harness's own process: it notes when each call arrives and answers when it was told to."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

HOLD = "hold"
"""The tool that this model calls when a message begins with its name: it lasts until its worker dies."""
_ANSWER = {
    "id": "msg_bench",
    "type": "message",
    "role": "assistant",
    "model": "bench-upstream",
    "stop_sequence": None,
    "usage": {"input_tokens": 100, "output_tokens": 5},
}


class Model:
    """Answers Anthropic's messages after `delay_s`; `arrived` has the time of each call, by `time.time()`.

    A call is known by the last word of the conversation's last text by the user, or by `HOLD` after that tool.
    """

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.in_flight = 0
        self.most_in_flight = 0
        self.answered = 0
        self.arrived: dict[str, list[float]] = {}
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the calls of one connection, one after the other."""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line.split(b":")[1])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length")
                )
                body = await reader.readexactly(length)
                at = time.time()
                self.in_flight += 1
                self.most_in_flight = max(self.most_in_flight, self.in_flight)
                try:
                    answer = self._answer(json.loads(body), at)
                    if self.delay_s:
                        await asyncio.sleep(self.delay_s)
                finally:
                    self.in_flight -= 1
                text = json.dumps(answer).encode()
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                    % (len(text), text)
                )
                self.answered += 1
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def _answer(self, body: dict[str, Any], at: float) -> dict[str, Any]:
        last = body["messages"][-1]["content"]
        blocks = [{"type": "text", "text": last}] if isinstance(last, str) else last
        texts = [block["text"] for block in blocks if block["type"] == "text"]
        if not texts:  # a tool's result
            self.arrived.setdefault(HOLD, []).append(at)
            return {**_ANSWER, "content": [{"type": "text", "text": "Done."}], "stop_reason": "end_turn"}
        word = texts[-1].split()[-1]
        self.arrived.setdefault(word, []).append(at)
        if texts[-1].startswith(HOLD):
            use = {"type": "tool_use", "id": f"toolu_{word}", "name": HOLD, "input": {}}
            return {**_ANSWER, "content": [use], "stop_reason": "tool_use"}
        return {**_ANSWER, "content": [{"type": "text", "text": "Fine."}], "stop_reason": "end_turn"}


@asynccontextmanager
async def serving() -> AsyncIterator[Model]:
    """Serve a model on a free port of the loopback address."""
    model = Model()
    server = await asyncio.start_server(model.serve, "127.0.0.1", 0, backlog=1024, limit=1 << 24)
    model.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield model
    finally:
        server.close()
