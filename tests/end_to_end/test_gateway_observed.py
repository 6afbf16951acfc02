"""What an operator sees from outside: spans at a collector, headers, metrics."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.postgres import copied_database, temporary_home
from support.stack import PROVIDER_KEY, Stack, eventually, serving
from trunkline.store.embedded import ConnectionInfo

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@dataclass
class Collector:
    """What came to an OTLP collector: the bodies, and the headers of the newest."""

    url: str
    bodies: list[bytes] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)

    def holds(self, *texts: str) -> bool:
        return any(all(text.encode() in body for text in texts) for body in self.bodies)


@contextmanager
def collecting() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.headers = {name.lower(): value for name, value in self.headers.items()} | {"path": self.path}
            taken.bodies.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    taken = Collector(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield taken
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
def telling(postgres: ConnectionInfo, migrated_template: str, scripted_model: str) -> Iterator[tuple[Stack, Collector]]:
    """A gateway whose spans tell what was said, as far as 60 bytes go."""
    with (
        collecting() as collector,
        temporary_home() as home,
        copied_database(postgres, migrated_template) as database,
        serving(
            database,
            scripted_model,
            Path(home),
            more=f'traces: {{endpoint: "{collector.url}", content: true, content_max_bytes: 60}}\n',
        ) as running,
    ):
        yield running, collector


@pytest.fixture(scope="module")
def traced(
    postgres: ConnectionInfo, migrated_template: str, scripted_model: str, collector: Collector
) -> Iterator[Stack]:
    traces = f'traces: {{endpoint: "{collector.url}", headers: {{x-collector-key: "our-key"}}, service_name: desk}}\n'
    with (
        temporary_home() as home,
        copied_database(postgres, migrated_template) as database,
        serving(database, scripted_model, Path(home), more=traces) as running,
    ):
        yield running


def test_each_call_is_a_span_in_its_clients_trace(traced: Stack, collector: Collector) -> None:
    raw = traced.openai().chat.completions.with_raw_response.create(
        model="claude",
        messages=[{"role": "user", "content": "count the tokens"}],
        extra_headers={"traceparent": TRACEPARENT},
    )
    assert eventually(lambda: collector.holds("chat claude", raw.headers["x-trunkline-call"]))
    assert collector.headers["path"] == "/v1/traces"
    assert collector.headers["x-collector-key"] == "our-key"
    assert collector.holds("desk", "gen_ai.provider.name", "gen_ai.usage.output_tokens", "claude-scripted")
    trace, span = (bytes.fromhex(part) for part in TRACEPARENT.split("-")[1:3])
    assert any(trace in body and span in body for body in collector.bodies)


def test_a_span_tells_nothing_of_what_was_said_and_no_secret(traced: Stack, collector: Collector) -> None:
    secret = "the parcel of Ada Lovelace"
    raw = traced.openai().chat.completions.with_raw_response.create(
        model="gpt", messages=[{"role": "user", "content": f"{secret}: count the tokens"}], user="ada@example.org"
    )
    assert eventually(lambda: collector.holds(raw.headers["x-trunkline-call"]))
    for text in (secret, "Counted.", PROVIDER_KEY, traced.key, "ada@example.org"):
        assert not collector.holds(text), text


@pytest.mark.parametrize("stream", [False, True])
def test_a_span_tells_what_was_said_where_that_is_wanted(telling: tuple[Stack, Collector], stream: bool) -> None:
    stack, collector = telling
    messages: Any = [
        {"role": "user", "content": "an older message that is longer than there is room for"},
        {"role": "assistant", "content": "so it is"},
        {"role": "user", "content": "Ada says: count the tokens"},
    ]
    for model in ("gpt", "claude"):
        raw = stack.openai().chat.completions.with_raw_response.create(model=model, messages=messages, stream=stream)
        if stream:
            assert list(raw.parse())
        call = raw.headers["x-trunkline-call"]
        asked = '{"role":"user","parts":[{"type":"text","content":"Ada says: count the tokens"}]}]'
        cut = '[{"role":"user","parts":[{"type":"text","content":"an older message that is l"}]}'
        answered = '[{"role":"assistant","parts":[{"type":"text","content":"Counted."}]}]'
        assert eventually(partial(collector.holds, call)), model
        assert collector.holds(call, "gen_ai.input.messages", asked, cut, "trunkline.content.cut"), model
        assert collector.holds(call, "gen_ai.output.messages", answered, "gen_ai.response.finish_reasons", "stop"), (
            model
        )
    anthropic = stack.anthropic().messages.with_raw_response.create(
        model="claude", max_tokens=9, system="Be brief.", messages=[{"role": "user", "content": "count the tokens"}]
    )
    call = anthropic.headers["x-trunkline-call"]
    assert eventually(
        lambda: collector.holds(call, "gen_ai.system_instructions", '[{"type":"text","content":"Be brief."}]')
    )
    assert not any(collector.holds(secret) for secret in (PROVIDER_KEY, stack.key))


def test_a_client_that_does_not_record_is_not_traced(traced: Stack, collector: Collector) -> None:
    def call(flags: str) -> str:
        raw = traced.openai().chat.completions.with_raw_response.create(
            model="gpt",
            messages=[{"role": "user", "content": "count the tokens"}],
            extra_headers={"traceparent": TRACEPARENT[:-2] + flags},
        )
        return str(raw.headers["x-trunkline-call"])

    silent, told = call("00"), call("01")
    assert eventually(lambda: collector.holds(told))
    assert not collector.holds(silent)


def test_a_collector_that_is_away_harms_no_call(
    postgres: ConnectionInfo, migrated_template: str, scripted_model: str
) -> None:
    with collecting() as gone:
        pass
    with (
        temporary_home() as home,
        copied_database(postgres, migrated_template) as database,
        serving(database, scripted_model, Path(home), more=f'traces: {{endpoint: "{gone.url}"}}\n') as running,
    ):
        for _ in range(3):
            reply = running.openai().chat.completions.create(
                model="gpt", messages=[{"role": "user", "content": "count the tokens"}]
            )
            assert reply.choices[0].message.content == "Counted."
        log = Path(home) / "gateway.log"
        assert eventually(lambda: "spans could not be sent" in log.read_text())


def test_the_dashboard_asks_for_metrics_that_there_are(traced: Stack) -> None:
    traced.openai().chat.completions.create(model="gpt", messages=[{"role": "user", "content": "count the tokens"}])
    exposed = httpx.get(f"{traced.base_url}/metrics", timeout=20).text
    declared = set(re.findall(r"^# TYPE (\w+)", exposed, re.MULTILINE))
    explained = set(re.findall(r"^# HELP (\w+) \S", exposed, re.MULTILINE))
    assert declared == explained, "each metric says what it is"
    units = ("_total", "_seconds", "_bytes", "_in_flight", "_held", "_resting")
    assert all(name.startswith("trunkline_") and name.endswith(units) for name in declared), declared
    dashboard = Path(__file__).parents[2] / "deploy" / "grafana" / "trunkline.json"
    asked = set(re.findall(r"\b(trunkline_\w+?)(?:_bucket)?\{", dashboard.read_text()))
    assert asked, "the dashboard asks for something"
    assert asked <= declared
    assert declared <= asked, "each metric can be seen somewhere"
