"""Anthropic's memory tool over a memory store, by the unmodified SDK."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anthropic
import pytest
from anthropic.lib.tools import ToolError

from support.stack import Stack
from trunkline.anthropic import AsyncMemoryTool, MemoryTool

HEAD = "Here're the files and directories up to 2 levels deep in {}, excluding hidden items and node_modules:\n"
EDITED = "The memory file has been edited. Here is the snippet showing the change (with line numbers):\n"
Told = Callable[..., str]


@pytest.fixture
def client(stack: Stack) -> Iterator[anthropic.Anthropic]:
    with stack.anthropic() as client:
        yield client


@pytest.fixture
def store(client: anthropic.Anthropic) -> str:
    return client.beta.memory_stores.create(name="notes").id


@pytest.fixture
def told(client: anthropic.Anthropic, store: str) -> Told:
    """Carry out a command and return what the model is told, marked where it is an error."""
    tool = MemoryTool(client, store)

    def call(command: str, **given: Any) -> str:
        try:
            return tool.call({"command": command, **given})
        except ToolError as error:
            return f"!{error.content}"

    return call


def test_a_model_keeps_a_note_through_the_tool_runner(client: anthropic.Anthropic, store: str) -> None:
    def said() -> str:
        runner = client.beta.messages.tool_runner(
            model="claude",
            max_tokens=200,
            tools=[MemoryTool(client, store)],
            thread=False,
            max_iterations=5,
            messages=[{"role": "user", "content": "note down tea"}],
        )
        return "".join(block.text for block in runner.until_done().content if block.type == "text")

    assert (
        said().split("notes.md\n", 1)[1]
        == "Here's the content of /memories/notes.md with line numbers:\n     1\t# Notes\n     2\ttea\n     3\t"
    )
    assert "Error: File /memories/notes.md already exists" in said()
    kept = list(client.beta.memory_stores.memories.list(store, view="full"))
    assert [(memory.path, memory.content) for memory in kept if memory.type == "memory"] == [
        ("/notes.md", "# Notes\ntea\n")
    ]


async def test_so_does_one_in_an_asynchronous_program(stack: Stack, store: str) -> None:
    async with anthropic.AsyncAnthropic(base_url=stack.base_url, api_key=stack.key, max_retries=0) as client:
        tool = AsyncMemoryTool(client, store)
        runner = client.beta.messages.tool_runner(
            model="claude",
            max_tokens=200,
            tools=[tool],
            thread=False,
            max_iterations=5,
            messages=[{"role": "user", "content": "note down tea"}],
        )
        message = await runner.until_done()
        assert "     2\ttea" in "".join(block.text for block in message.content if block.type == "text")
        with pytest.raises(ToolError, match="does not exist"):
            await tool.call({"command": "delete", "path": "/memories/nothing"})
        assert await tool.call({"command": "delete", "path": "/memories/notes.md"})


def test_the_tool_answers_in_the_documented_words(told: Told) -> None:
    assert told("view", path="/memories") == HEAD.format("/memories") + "0B\t/memories"
    assert told("create", path="/memories/a.txt", file_text="one\ntwo\ntwo\n") == (
        "File created successfully at: /memories/a.txt"
    )
    assert told("create", path="/memories/a.txt", file_text="") == "!Error: File /memories/a.txt already exists"
    assert told("view", path="/memories/a.txt", view_range=[2, 3]) == (
        "Here's the content of /memories/a.txt with line numbers:\n     2\ttwo\n     3\ttwo"
    )
    assert told("view", path="/memories/a.txt", view_range=[3, -1]).endswith("numbers:\n     3\ttwo\n     4\t")
    assert "[1, 4]" in told("view", path="/memories/a.txt", view_range=[9, 12])
    assert told("view", path="/memories/b") == "!The path /memories/b does not exist. Please provide a valid path."

    replace = {"path": "/memories/a.txt", "old_str": "two", "new_str": "2"}
    assert told("str_replace", **replace) == (
        "!No replacement was performed. Multiple occurrences of old_str `two` in lines: 2, 3. "
        "Please ensure it is unique"
    )
    assert told("str_replace", **replace | {"old_str": "six"}) == (
        "!No replacement was performed, old_str `six` did not appear verbatim in /memories/a.txt."
    )
    assert told("str_replace", **replace | {"old_str": "one"}) == (EDITED + "     1\t2\n     2\ttwo\n     3\ttwo")
    assert told("str_replace", **replace | {"path": "/memories/b"}) == (
        "!Error: The path /memories/b does not exist. Please provide a valid path."
    )

    assert told("insert", path="/memories/a.txt", insert_line=1, insert_text="new\n") == (
        "The file /memories/a.txt has been edited."
    )
    assert told("view", path="/memories/a.txt").endswith("     1\t2\n     2\tnew\n     3\ttwo\n     4\ttwo\n     5\t")
    assert told("insert", path="/memories/a.txt", insert_line=5, insert_text="x") == (
        "!Error: Invalid `insert_line` parameter: 5. It should be within the range of lines of the file: [0, 4]"
    )
    assert told("insert", path="/memories/b", insert_line=0, insert_text="x") == (
        "!Error: The path /memories/b does not exist"
    )

    move = {"old_path": "/memories/a.txt", "new_path": "/memories/b/c.txt"}
    assert told("rename", **move) == "Successfully renamed /memories/a.txt to /memories/b/c.txt"
    assert told("rename", **move) == "!Error: The path /memories/a.txt does not exist"
    told("create", path="/memories/a.txt", file_text="")
    assert told("rename", **move) == "!Error: The destination /memories/b/c.txt already exists"
    assert told("delete", path="/memories/b/c.txt") == "Successfully deleted /memories/b/c.txt"
    assert told("delete", path="/memories/b/c.txt") == "!Error: The path /memories/b/c.txt does not exist"


def test_directories_are_shown_moved_and_deleted_whole(told: Told) -> None:
    for path in ("d/e/f/deep", "d/top", "d.txt", ".hidden", "node_modules/x"):
        told("create", path=f"/memories/{path}", file_text="x" * 1536)
    assert told("view", path="/memories") == HEAD.format("/memories") + (
        "4.5K\t/memories\n1.5K\t/memories/d.txt\n3K\t/memories/d/\n1.5K\t/memories/d/e/\n1.5K\t/memories/d/top"
    )
    assert told("view", path="/memories/d/e/") == HEAD.format("/memories/d/e") + (
        "1.5K\t/memories/d/e\n1.5K\t/memories/d/e/f/\n1.5K\t/memories/d/e/f/deep"
    )
    assert told("create", path="/memories/d", file_text="") == "!Error: File /memories/d already exists"
    assert "'/d.txt', which overlaps it" in told("create", path="/memories/d.txt/below", file_text="")
    assert "does not exist" in told("str_replace", path="/memories/d", old_str="x", new_str="y")
    assert "is in /memories/d itself" in told("rename", old_path="/memories/d", new_path="/memories/d/g")
    assert told("rename", old_path="/memories/d", new_path="/memories/g").startswith("Successfully")
    assert told("view", path="/memories/g/e/f/deep").startswith("Here's the content")
    assert told("delete", path="/memories/g") == "Successfully deleted /memories/g"
    assert told("view", path="/memories") == HEAD.format("/memories") + "1.5K\t/memories\n1.5K\t/memories/d.txt"
    assert "directory itself" in told("delete", path="/memories")
    assert "directory itself" in told("rename", old_path="/memories/", new_path="/memories/z")


def test_a_directory_of_more_than_a_page_is_whole(told: Told) -> None:
    for number in range(103):
        told("create", path=f"/memories/many/{number:03}", file_text="")
    assert told("view", path="/memories/many").count("\n") == 104
    assert "line numbers" in told("view", path="/memories/many/102")
    assert told("delete", path="/memories/many") == "Successfully deleted /memories/many"
    assert "does not exist" in told("view", path="/memories/many")


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "/memoriesx/a",
        "memories/a",
        "",
        "/memories/../secrets",
        "/memories/a/../../b",
        "/memories/./a",
        "/memories/%2e%2e/a",
        "/memories/..%2fa",
        "/memories/..\\a",
        "/memories//a",
        "/memories/a\0b",
        "/memories/" + "a" * 2000,
        "/memories/\ud800",
    ],
)
def test_no_path_leads_out_of_the_store(told: Told, path: str) -> None:
    assert told("create", path=path, file_text="x").startswith("!")
    assert told("view", path=path).startswith("!")
    assert told("rename", old_path=path, new_path="/memories/ok").startswith("!")
    assert told("view", path="/memories").endswith("\n0B\t/memories")


def test_bad_input_is_told_to_the_model(told: Told) -> None:
    assert told("format").startswith("!Error: The command must be one of view, create")
    assert "`path`: Field required" in told("view")
    assert "`insert_line`" in told("insert", path="/memories/a", insert_line="1", insert_text="x")
    assert "surrogate" in told("create", path="/memories/a", file_text="\ud800")
    assert told("create", path="/memories/a", file_text="\0").startswith("!Error: ")
    assert told("create", path="/memories/a", file_text="x" * 200_000).startswith("!Error: ")


def test_edits_at_the_same_time_lose_nothing(told: Told) -> None:
    told("create", path="/memories/log", file_text="")
    with ThreadPoolExecutor(4) as writers:
        answers = list(
            writers.map(lambda word: told("insert", path="/memories/log", insert_line=0, insert_text=word), "abcd")
        )
    kept = {word for word, answer in zip("abcd", answers, strict=True) if not answer.startswith("!")}
    assert kept
    assert kept == {line.split("\t")[1] for line in told("view", path="/memories/log").splitlines()[1:]} - {""}


def test_the_store_of_another_tenant_is_not_there(client: anthropic.Anthropic, stack: Stack) -> None:
    with pytest.raises(anthropic.NotFoundError):
        MemoryTool(client, "memstore_0193f0a4c1b27c55a1c8b4c0a1b2c3d4").call({"command": "view", "path": "/memories"})
