"""Gateways and workers as processes of their own, over a test's database."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from support.control_plane import VAULT_KEY
from support.postgres import DatabaseUrls
from trunkline.processes.ports import claim, status_of

STARTS_WITHIN_S = 30


@contextlib.contextmanager
def process(name: str, configuration: dict[str, Any], log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """A process of `trunkline.processes`, configured as the supervisor does, and told to stop at the end."""
    command = [sys.executable, "-m", f"trunkline.processes.{name}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT) as child:
        try:
            assert child.stdin is not None
            child.stdin.write(json.dumps(configuration).encode() + b"\n")
            child.stdin.flush()
            yield child
        finally:
            child.terminate()
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()
                raise


@contextlib.contextmanager
def gateway(
    database: DatabaseUrls, control_url: str, model_url: str, folder: Path, *, wire: str = "anthropic_messages"
) -> Iterator[str]:
    """The base URL of a gateway whose only provider, and model `test`, is the model server."""
    listen = claim("127.0.0.1:0")
    configuration = {
        "listen": listen,
        "control_url": control_url,
        "database": database.gateway_url,
        "spool_dir": str(folder / "spool"),
        "spool_max_bytes": 1 << 24,
        "max_body_bytes": 1 << 25,
        "providers": [{"name": "fake", "wire": wire, "base_url": f"{model_url}/v1", "api_key": "none"}],
        "models": [{"name": "test", "upstreams": [{"provider": "fake", "model": "any"}]}],
        "routes": [],
        "prices": [
            {"provider": "fake", "model": model, "input": 100, "output": 10_000} for model in ("priced", "slow-1500")
        ],
        "default_model": "test",
        "timeouts": {"connect_ms": 5000, "first_byte_ms": 60000, "idle_ms": 60000, "total_ms": 120000},
    }
    url = f"http://{listen}"
    with (folder / "gateway.log").open("ab") as log, process("gateway", configuration, log) as child:
        give_up = time.monotonic() + STARTS_WITHIN_S
        while status_of(url, "/readyz", timeout_s=1.0) != 200:
            said = (folder / "gateway.log").read_text()
            assert child.poll() is None, said
            assert time.monotonic() < give_up, said
            time.sleep(0.02)
        yield url


@contextlib.contextmanager
def worker(
    database: DatabaseUrls, gateway_url: str, log: Path, *, tools: dict[str, Any] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A worker whose model calls go through the gateway; `tools` as in trunkline.yaml."""
    configuration = {
        "database": database.control_url,
        "base_url": gateway_url,
        "memory": {},
        "tools": tools or {},
        "webhooks": {},
        "vault_keys": [VAULT_KEY.hex()],
        "audit_days": 400,
        "home": str(log.parent),
    }
    with log.open("ab") as file, process("worker", configuration, file) as child:
        yield child
