"""Gateway, control plane and worker as separate processes on a database of the user's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from support.control_plane import first_key
from support.postgres import DatabaseUrls
from trunkline import Trunkline


@contextmanager
def part(environment: dict[str, str], folder: Path, *command: str) -> Iterator[str]:
    """Run a command until the block ends; yield the address that it tells."""
    process = subprocess.Popen(
        [sys.executable, "-m", "trunkline", *command, "--json"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=folder,
    )
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["base_url"]
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


def test_the_parts_find_each_other_through_the_database(
    database: DatabaseUrls, model_server: str, tmp_path: Path
) -> None:
    key = first_key(database.admin_url)
    (tmp_path / "trunkline.yaml").write_text(
        f'providers: {{scripted: {{wire: openai_chat, base_url: "{model_server}/v1", api_key: none}}}}\n'
        "models: {m: {provider: scripted, model: m}}\n"
    )
    environment = os.environ | {"DATABASE_URL": database.admin_url, "TRUNKLINE_HOME": str(tmp_path / "home")}
    migrated = subprocess.run(
        [sys.executable, "-m", "trunkline", "migrate", "--json"], capture_output=True, check=True, env=environment
    )
    assert json.loads(migrated.stdout) == {"applied": []}
    with ExitStack() as running:
        control = running.enter_context(part(environment, tmp_path, "control", "--listen", "127.0.0.1:0"))
        gateway = running.enter_context(
            part(environment, tmp_path, "gateway", "--listen", "127.0.0.1:0", "--control-url", control)
        )
        with Trunkline(gateway, key) as client:
            client.agents.apply({"name": "helper"})
        answer = httpx.post(
            f"{gateway}/v1/chat/completions",
            headers={"authorization": f"Bearer {key}"},
            json={"model": "m", "messages": [{"role": "user", "content": "Hello."}]},
            timeout=20,
        )
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["message"]["content"]
