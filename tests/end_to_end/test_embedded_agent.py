"""`agent.run` where no Trunkline runs: one is started for the program, and ends with it, however that ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from support.postgres import temporary_home
from trunkline.store.embedded import EmbeddedPostgres

CONFIGURATION = """\
providers:
  fake: {{wire: openai_chat, base_url: "{model_url}/v1", api_key: none}}
models:
  fast: {{provider: fake, model: any}}
"""
PROGRAM = """
import sys
from trunkline import Agent

def shout(word: str) -> str:
    \"\"\"Say it louder.\"\"\"
    return word.upper()

agent = Agent(name="helper", instructions="You help.", tools=[shout])
run = agent.run("Hello", session_id=sys.argv[1] if len(sys.argv) > 1 else None)
assert run.text, run
assert agent.run("Hello again", session_id=run.session_id).session_id == run.session_id
print(run.session_id, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def home() -> Iterator[Path]:
    with temporary_home() as folder:
        yield folder
        EmbeddedPostgres(folder).destroy()


def start(home: Path, *arguments: str) -> subprocess.Popen[str]:
    unset = ("DATABASE_URL", "TRUNKLINE_BASE_URL", "TRUNKLINE_API_KEY")
    kept = {name: value for name, value in os.environ.items() if "_API_KEY" not in name and name not in unset}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=home,
        env=kept | {"TRUNKLINE_HOME": str(home)},
    )


def session_of(program: subprocess.Popen[str]) -> str:
    assert program.stdout is not None
    line = program.stdout.readline().strip()
    assert line.startswith("sesn_"), program.communicate()[1]
    return line


def processes(home: Path) -> list[psutil.Process]:
    run: dict[str, Any] = json.loads((home / "run.json").read_text())
    return [psutil.Process(run["pid"]), *(psutil.Process(one["pid"]) for one in run["processes"].values())]


def test_a_program_has_a_trunkline_of_its_own(home: Path, model_server: str) -> None:
    (home / "trunkline.yaml").write_text(CONFIGURATION.format(model_url=model_server))
    with start(home) as program:
        session = session_of(program)
        running = processes(home)
        program.communicate("", timeout=60)
        assert program.returncode == 0
    assert psutil.wait_procs(running, timeout=1)[1] == []
    with start(home, session) as program:  # what was said is kept
        assert session_of(program) == session
        running = processes(home)
        program.kill()
        program.communicate()
    assert psutil.wait_procs(running, timeout=40)[1] == []


def test_without_a_provider_it_says_what_is_missing(home: Path) -> None:
    with start(home) as program:
        said = program.communicate("", timeout=60)[1]
    assert "No model provider is configured" in said
    assert program.returncode == 1
