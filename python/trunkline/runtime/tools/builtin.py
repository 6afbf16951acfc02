"""The tools of `agent_toolset_20260401` in a sandbox, with the names and inputs of the Managed Agents wire."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trunkline.function_tools import ToolCall
from trunkline.runtime.tools.output import MAX_CHARACTERS
from trunkline.runtime.tools.sandbox import WORKSPACE, Ended, Sandbox
from trunkline.runtime.tools.tool import Input, Result, Tool, ToolError, text

BASH_SECONDS: Final = 120.0
LONGEST_BASH_SECONDS: Final = 600.0
_FILE_SECONDS: Final = 60.0
_MOST_READ: Final = 8 << 20
_MOST_SHOWN: Final = 5 << 20
"""Of an image or PDF, in bytes: what providers take."""
_SHOWN: Final = {
    "png": ("image", "image/png"),
    "jpg": ("image", "image/jpeg"),
    "jpeg": ("image", "image/jpeg"),
    "gif": ("image", "image/gif"),
    "webp": ("image", "image/webp"),
    "pdf": ("document", "application/pdf"),
}

Given = TypeVar("Given", bound=BaseModel)


class _Given(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Bash(_Given):
    """Input of `bash`."""

    command: str | None = None
    restart: bool | None = None
    timeout_ms: Annotated[int | None, Field(ge=0, le=int(LONGEST_BASH_SECONDS * 1000))] = None


class Read(_Given):
    """Input of `read`; `view_range` is the first and the last line, counted from 1; a last one below 1: the end."""

    file_path: str
    view_range: Annotated[list[int] | None, Field(min_length=2, max_length=2)] = None


class Write(_Given):
    """Input of `write`."""

    file_path: str
    content: str


class Edit(_Given):
    """Input of `edit`."""

    file_path: str
    old_string: Annotated[str, Field(min_length=1)]
    new_string: str
    replace_all: bool | None = None


class Search(_Given):
    """Input of `glob` and `grep`."""

    pattern: Annotated[str, Field(min_length=1, max_length=1000)]
    path: str | None = None


def builtin(toolset: Mapping[str, Any], sandbox: Sandbox) -> list[Tool]:
    """Return the enabled tools of a set, as an agent's definition has it; web tools are not among them."""
    configs = {config["name"]: config for config in toolset["configs"]}
    there = _Builtin(sandbox)
    where = f"Relative paths begin in {WORKSPACE}. {sandbox.about}"
    made = [
        _tool("bash", Bash, there.bash, f"Run a command in bash. Each call has a shell of its own. {where}"),
        _tool("read", Read, there.read, "Read a file: text (whole, or a range of lines), an image or a PDF."),
        _tool("write", Write, there.write, "Write a file as a whole, and make the directories above it."),
        _tool(
            "edit", Edit, there.edit, "Replace a text in a file. It must be there exactly once, or `replace_all` given."
        ),
        _tool("glob", Search, there.glob, "Find files by a pattern such as `**/*.py`, the newest first."),
        _tool(
            "grep",
            Search,
            there.grep,
            "Search files for an extended regular expression; gives path, line number, line.",
        ),
    ]
    enabled = []
    for name, make in made:
        config = configs.get(name, toolset["default_config"])
        if config["enabled"]:
            enabled.append(make(config["permission_policy"]["type"]))
    return enabled


def _tool(
    name: str, model: type[Given], act: Callable[[Given], Awaitable[Result]], description: str
) -> tuple[str, Callable[[Any], Tool]]:
    async def run(_: ToolCall, given: Input) -> Result:
        try:
            checked = model.model_validate(dict(given))
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
            raise ToolError(f"The input is not what {name} takes: {wrong}") from error
        return await act(checked)

    schema = model.model_json_schema()
    schema = {key: value for key, value in schema.items() if key not in ("title", "description")}
    seconds = LONGEST_BASH_SECONDS + _FILE_SECONDS if name == "bash" else _FILE_SECONDS

    def make(permission: Any) -> Tool:
        idempotent = name in ("read", "write", "glob", "grep")
        return Tool(name, description, schema, permission, run, seconds, idempotent=idempotent)

    return name, make


class _Builtin:
    """What the tools do. Raises ToolError."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    async def bash(self, given: Bash) -> Result:
        if given.command is None:
            return text("Each command has a shell of its own: there is none to start again.")
        seconds = given.timeout_ms / 1000 if given.timeout_ms else BASH_SECONDS
        ended = await self._sandbox.run(["/bin/bash", "-c", given.command], seconds=seconds)
        if ended.status is None:
            return text(f"{ended.output}\n[stopped after {seconds:g} s, with all that it had started]", is_error=True)
        if ended.status:
            return text(f"{ended.output}\n[exit status {ended.status}]".strip(), is_error=True)
        return text(ended.output)

    async def read(self, given: Read) -> Result:
        shown = _SHOWN.get(given.file_path.rpartition(".")[2].lower())
        content = await self._sandbox.read(given.file_path, _MOST_SHOWN if shown else _MOST_READ)
        if shown is not None:
            data = base64.b64encode(content).decode()
            source = {"type": "base64", "media_type": shown[1], "data": data}
            return Result(({"type": shown[0], "source": source},))
        if b"\0" in content:
            raise ToolError(f"{given.file_path} is not text; use bash.")
        words = content.decode(errors="replace")
        if given.view_range is not None:
            first, last = given.view_range
            words = "".join(words.splitlines(keepends=True)[max(first, 1) - 1 : last if last > 0 else None])
        elif len(words) > MAX_CHARACTERS:
            lines = len(words.splitlines())
            return text(
                f"{words[: MAX_CHARACTERS // 2]}\n[… cut here; the file has {lines} lines: give a view_range …]"
            )
        return text(words)

    async def write(self, given: Write) -> Result:
        await self._sandbox.write(given.file_path, given.content.encode("utf-8", "replace"))
        return text(f"{given.file_path} is written.")

    async def edit(self, given: Edit) -> Result:
        content = await self._sandbox.read(given.file_path, _MOST_READ)
        try:
            words = content.decode()
        except UnicodeDecodeError as error:
            raise ToolError(f"{given.file_path} is not text in UTF-8; use bash.") from error
        times = words.count(given.old_string)
        if times == 0:
            raise ToolError(f"`old_string` is not in {given.file_path}.")
        if times > 1 and not given.replace_all:
            raise ToolError(f"`old_string` is in {given.file_path} {times} times; give more of it, or `replace_all`.")
        changed = words.replace(given.old_string, given.new_string)
        await self._sandbox.write(given.file_path, changed.encode("utf-8", "replace"))
        return text(
            f"{given.file_path} is changed in {times} places." if times > 1 else f"{given.file_path} is changed."
        )

    async def glob(self, given: Search) -> Result:
        found = await self._sandbox.glob(given.pattern, given.path or WORKSPACE)
        return text("\n".join(found) or "No file fits.")

    async def grep(self, given: Search) -> Result:
        # A process of its own: an expression can be made to take forever.
        where = self._sandbox.place(given.path or WORKSPACE)
        argv = ["/usr/bin/env", "grep", "-rnIE", "-e", given.pattern, "--", where]
        ended = await self._sandbox.run(argv, seconds=_FILE_SECONDS / 2)
        if ended.status == 1 and not ended.output:
            return text("Nothing was found.")
        return _found(ended)


def _found(ended: Ended) -> Result:
    if ended.status is None:
        return text(f"{ended.output}\n[the search took too long and was stopped]", is_error=True)
    return text(ended.output, is_error=ended.status > 1)
