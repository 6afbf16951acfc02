"""A whole Trunkline for tests: the gateway and the control plane as processes of their own, over one database."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import psycopg
from psycopg.rows import dict_row

from support.control_plane import ControlPlane, first_key
from support.postgres import DatabaseUrls

PROVIDER_KEY = "sk-provider-key-of-ours-0123456789"
CONFIGURATION = """\
providers:
  oai: {{wire: openai_chat, base_url: "{model_url}/v1", api_key: {key}}}
  ant: {{wire: anthropic_messages, base_url: "{model_url}/v1", api_key: {key}}}
  duo: {{wires: [openai_chat, openai_responses, anthropic_messages], base_url: "{model_url}/v1", api_key: {key}}}
  gem: {{wire: gemini, base_url: "{model_url}/v1beta", api_key: {key}}}
  bed:
    wire: bedrock_converse
    base_url: "{model_url}"
    region: eu-central-1
    access_key_id: AKIDEXAMPLE
    secret_access_key: {key}
models:
  gpt: {{provider: oai, model: gpt-scripted}}
  claude: {{provider: ant, model: claude-scripted}}
  duo: {{provider: duo, model: duo-scripted}}
  gemini: {{provider: gem, model: gemini-3-scripted}}
  bedrock: {{provider: bed, model: "eu.anthropic.claude-scripted-v1:0"}}
prices:
  - {{provider: oai, model: gpt-scripted, input: 10, output: 1000}}
  - {{provider: ant, model: claude-scripted, input: 10, output: 1000}}
limits: {{max_body_bytes: {max_body_bytes}, lease_seconds: {lease_seconds}}}
"""


@dataclass(frozen=True)
class Stack(ControlPlane):
    """A running gateway with a control plane behind it; `base_url` is the gateway's, `key` may do everything."""

    control_url: str
    model_url: str
    admin_url: str
    gateway: Part

    def http(self, key: str | None = None) -> httpx.Client:
        """A plain client with a key, the admin's unless told otherwise."""
        # To read the certificates that this would not use takes longer than most tests.
        return httpx.Client(base_url=self.base_url, headers={"x-api-key": key or self.key}, timeout=20, verify=False)

    def openai(self, key: str | None = None, **more: Any) -> openai.OpenAI:
        """The unmodified SDK; no retries, so that an error is seen at once."""
        return openai.OpenAI(
            base_url=f"{self.base_url}/v1", api_key=key or self.key, **{"max_retries": 0, "timeout": 30, **more}
        )

    def anthropic(self, key: str | None = None, **more: Any) -> anthropic.Anthropic:
        """The unmodified SDK; no retries, so that an error is seen at once."""
        return anthropic.Anthropic(
            base_url=self.base_url, api_key=key or self.key, **{"max_retries": 0, "timeout": 30, **more}
        )

    def usage(self, key: str | None = None, **filters: Any) -> dict[str, Any]:
        """The sums that `/v1/usage` tells of the tenant of `key`."""
        with self.http(key) as http:
            answer = http.get("/v1/usage", params=filters)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def inference_key(self, **what: Any) -> tuple[str, str]:
        """Make a key for model calls and memory; return its text and its id, by which its usage is told apart."""
        with self.http() as http:
            answer = http.post("/v1/keys", json={"name": "test", "scopes": ["inference", "memory"], **what})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["key"]), str(answer.json()["id"])

    def events(self, session: str, key: str | None = None) -> list[Any]:
        """A session's events, read with the SDK."""
        return list(self.anthropic(key).beta.sessions.events.list(session, order="asc"))

    def asked(self) -> list[dict[str, Any]]:
        """What the model server was asked, oldest first."""
        answer: list[dict[str, Any]] = httpx.get(f"{self.model_url}/_requests", timeout=20).json()
        return answer

    def rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        """Ask the database itself."""
        with psycopg.connect(self.admin_url, row_factory=dict_row) as connection:
            return connection.execute(query, values).fetchall()


@dataclass
class Part:
    """A process that says in one line of JSON where it answers."""

    arguments: list[str]
    environment: dict[str, str]
    log: Path
    base_url: str = ""
    process: subprocess.Popen[str] | None = field(default=None, repr=False)

    def start(self) -> str:
        """Start it and return its address."""
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "trunkline", *self.arguments],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=self.environment,
                cwd=self.log.parent,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log.read_text()
        self.base_url = json.loads(line)["base_url"]
        return self.base_url

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self, seconds: float = 60) -> int:
        """Wait for its end and return its exit status."""
        assert self.process is not None
        return self.process.wait(seconds)

    def alive(self) -> bool:
        """Tell whether it runs."""
        return self.process is not None and self.process.poll() is None

    def end(self) -> None:
        """End it, by force if it does not go."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(40)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


def configured(model_url: str, *, max_body_bytes: int = 4 * 1024 * 1024, lease_seconds: int = 120) -> str:
    """Return a trunkline.yaml of the scripted model's four faces."""
    return CONFIGURATION.format(
        model_url=model_url, key=PROVIDER_KEY, max_body_bytes=max_body_bytes, lease_seconds=lease_seconds
    )


@contextlib.contextmanager
def serving(
    database: DatabaseUrls,
    model_url: str,
    home: Path,
    *,
    max_body_bytes: int = 4 * 1024 * 1024,
    lease_seconds: int = 120,
    more: str = "",
) -> Iterator[Stack]:
    """Run a control plane and a gateway on a migrated database until the block ends; `more` is for trunkline.yaml."""
    key = first_key(database.admin_url)
    configuration = home / "trunkline.yaml"
    configuration.write_text(
        configured(model_url, max_body_bytes=max_body_bytes, lease_seconds=lease_seconds) + more,
        encoding="utf-8",
    )
    kept = {name: value for name, value in os.environ.items() if "_API_KEY" not in name and "TRUNKLINE" not in name}
    environment = kept | {
        "TRUNKLINE_HOME": str(home),
        "DATABASE_URL": database.admin_url,
        "TRUNKLINE_GATEWAY_DATABASE_URL": database.gateway_url,
        "TRUNKLINE_CONTROL_DATABASE_URL": database.control_url,
    }
    config = ["--config", str(configuration), "--json"]
    control = Part(["control", "--listen", "127.0.0.1:0", *config], environment, home / "control.log")
    gateway = Part([], environment, home / "gateway.log")
    try:
        control_url = control.start()
        gateway.arguments = ["gateway", "--listen", "127.0.0.1:0", "--control-url", control_url, *config]
        base_url = gateway.start()
        # Started again, it comes back under the address that clients know.
        gateway.arguments[2] = base_url.removeprefix("http://")
        wait_ready(base_url)
        yield Stack(base_url, key, control_url, model_url, database.admin_url, gateway)
    finally:
        gateway.end()
        control.end()


def wait_ready(base_url: str) -> None:
    """Wait until a gateway lets calls in."""
    assert eventually(lambda: httpx.get(f"{base_url}/readyz", timeout=5).status_code == 200), "not ready"


def eventually(condition: Callable[[], Any], seconds: float = 30) -> bool:
    """Tell whether a condition comes to hold; what it raises of the network counts as not yet."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        with contextlib.suppress(httpx.HTTPError, openai.APIError, anthropic.APIError):
            if condition():
                return True
        time.sleep(0.02)
    return False
