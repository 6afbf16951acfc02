"""Every snippet of the README is carried out against a whole Trunkline; one that is added and not carried out fails."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.stack import Stack
from trunkline import Trunkline
from trunkline.cli.app import run

ROOT = Path(__file__).parents[2]
ELSEWHERE = {
    "make demo": "test_demo.py plays it",
    "make test": "this runs in it",
    "trunkline up --config config.yaml": "test_up.py starts it",
}
"""Commands that are not carried out here, and why."""


@dataclass(frozen=True)
class Snippet:
    """A fenced block of the README."""

    language: str
    text: str


SNIPPETS = [
    Snippet(match["language"], match["text"])
    for match in re.finditer(
        r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
]


def of(language: str) -> list[str]:
    return [snippet.text for snippet in SNIPPETS if snippet.language == language]


@pytest.fixture
def here(stack: Stack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stack:
    """The stack, as a user has it who followed the README, in a tenant of its own: the YAML's agent is there."""
    stack = replace(stack, key=stack.another_tenant(tmp_path.name))
    monkeypatch.setenv("TRUNKLINE_BASE_URL", stack.base_url)
    monkeypatch.setenv("TRUNKLINE_API_KEY", stack.key)
    monkeypatch.chdir(tmp_path)
    (definition,) = of("yaml")
    # The model by which the scripted one goes here.
    (tmp_path / "agent.yaml").write_text(re.sub(r"model: \S+", "model: claude", definition))
    assert run(["agent", "apply", "-f", "agent.yaml"]) == 0
    return stack


def test_the_readme_has_no_snippet_of_another_kind() -> None:
    assert {snippet.language for snippet in SNIPPETS} <= {"python", "yaml", "sh", ""}
    assert len(of("python")) >= 2
    assert len(of("")) == 1, "what the model finds in its prompt"
    for definition in of("yaml"):
        assert yaml.safe_load(definition)["agent"]["name"]


@pytest.mark.parametrize("number", range(len(of("python"))))
def test_python_runs_as_it_stands(here: Stack, number: int) -> None:
    program = of("python")[number].replace("http://127.0.0.1:4000", here.base_url)
    exec(compile(program, f"README.md, Python snippet {number + 1}", "exec"), {"KEY": here.key, "__name__": "readme"})


def test_what_the_model_finds_is_what_the_readme_shows(here: Stack) -> None:
    (shown,) = of("")
    with Trunkline() as client:
        operations: list[Any] = [
            {"op": "merge", "field": "preferences", "value": {"colour": "green"}},
            {"op": "append", "field": "recent_purchases", "value": "red kettle"},
        ]
        written = client.memory.operations("support-resolver", "customer", operations, user_id="cus_readme")
    assert f"<trunkline-memory>\n{written.rendered}\n</trunkline-memory>\n" == shown


def test_every_command_runs(here: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    Path("config.yaml").write_text(
        "model_list:\n  - model_name: gpt-4o-mini\n    litellm_params: {model: openai/gpt-4o-mini, api_key: sk-x}\n"
    )
    commands = [
        command for text in of("sh") for line in text.splitlines() if (command := line.partition("#")[0].strip())
    ]
    assert set(ELSEWHERE) <= set(commands), "an exception that the README has no more"
    for command in commands:
        if command in ELSEWHERE:
            continue
        program, *arguments = shlex.split(command)
        assert program == "trunkline", f"{command}: carry it out here, or say in ELSEWHERE why not"
        assert run(arguments) == 0, (command, capsys.readouterr().err)


def test_what_the_makefile_is_asked_for_is_there() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    asked = {word for text in of("sh") for word in re.findall(r"^make ([\w-]+)", text, re.MULTILINE)}
    asked |= set(re.findall(r"`make ([\w-]+)`", (ROOT / "README.md").read_text()))
    assert asked <= targets
