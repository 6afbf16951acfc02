"""Anthropic's memory tool (`memory_20250818`): its commands as steps, calls of a store's memories, whoever makes them.

The texts that the model reads are those of the tool's documentation, so that what it was trained on holds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Protocol
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from trunkline.errors import Conflict, NotFound

NAME: Final = "memory"
"""What models call the tool by."""
ROOT: Final = "/memories"
MAX_LINES: Final = 999_999
"""The most lines that a view numbers, as documented: six digits."""
PAGE: Final = 100
"""Memories asked for at once: the most that the route gives."""
ATTEMPTS: Final = 5
"""How often an edit is made anew on what another has written meanwhile."""


class CommandRefused(Exception):
    """What the model is told where a command cannot be carried out; it can mend it."""


class _Command(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)


class View(_Command):
    """Show a file, or some of its lines, or a directory."""

    command: Literal["view"]
    path: str
    view_range: list[int] | None = None


class Create(_Command):
    """Make a file where there is none."""

    command: Literal["create"]
    path: str
    file_text: str


class StrReplace(_Command):
    """Replace a text that occurs once."""

    command: Literal["str_replace"]
    path: str
    old_str: str
    new_str: str


class Insert(_Command):
    """Insert lines after a line; 0: before the first."""

    command: Literal["insert"]
    path: str
    insert_line: int
    insert_text: str


class Delete(_Command):
    """Delete a file, or a directory with all that is in it."""

    command: Literal["delete"]
    path: str


class Rename(_Command):
    """Move a file or a directory."""

    command: Literal["rename"]
    old_path: str
    new_path: str


Command = View | Create | StrReplace | Insert | Delete | Rename
COMMANDS: Final = ("view", "create", "str_replace", "insert", "delete", "rename")
_INPUT: Final[TypeAdapter[Command]] = TypeAdapter(Annotated[Command, Field(discriminator="command")])


class Entry(Protocol):
    """A memory, or in a list that stops at a depth, what stands for deeper ones: a path with a slash at its end."""

    @property
    def id(self) -> str:
        """Its id in the wire."""

    @property
    def path(self) -> str:
        """Where it is."""

    @property
    def content(self) -> str | None:
        """What it says, where it was asked for."""

    @property
    def content_sha256(self) -> str:
        """The hash of that."""

    @property
    def content_size_bytes(self) -> int:
        """The size of that."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a store's memories: list (answered by one page), retrieve, create, update, delete.

    Names and arguments are the SDK's. It may raise NotFound, Conflict, and what else the route refuses.
    """

    method: str
    arguments: dict[str, Any]


Steps = Generator[Call, Any, str]
"""A command: it yields calls, is sent their answers, and returns what the model is told."""
_Found = Generator[Call, Any, Entry | bool]
"""What is at a path: a file, True for a directory, False for nothing."""
_Listed = Generator[Call, Any, list[Entry]]


def read_command(given: object) -> Command:
    """Return the command in a tool call's input. Raises CommandRefused that says what is wrong with it."""
    name = given.get("command") if isinstance(given, dict) else None
    if name not in COMMANDS:
        raise CommandRefused(f"Error: The command must be one of {', '.join(COMMANDS)}.")
    try:
        return _INPUT.validate_python(given)
    except ValidationError as error:
        faults = "; ".join(f"`{'.'.join(map(str, fault['loc'][1:]))}`: {fault['msg']}" for fault in error.errors())
        raise CommandRefused(f"Error: Invalid input of {name}: {faults}.") from None


def steps_of(command: Command) -> Steps:
    """Return a command's steps. They raise CommandRefused for what the model can mend."""
    match command:
        case View():
            return _view(command.path, command.view_range)
        case Create():
            return _create(command.path, command.file_text)
        case StrReplace():
            return _str_replace(command.path, command.old_str, command.new_str)
        case Insert():
            return _insert(command.path, command.insert_line, command.insert_text)
        case Delete():
            return _delete(command.path)
        case Rename():
            return _rename(command.old_path, command.new_path)


def _view(path: str, view_range: Sequence[int] | None) -> Steps:
    inside = _inside(path)
    found = yield from _find(inside)
    if found is False:
        raise CommandRefused(f"The path {path} does not exist. Please provide a valid path.")
    if isinstance(found, bool):
        return _directory(ROOT + inside, (yield from _below(inside)))
    lines = (yield from _content(found, path)).split("\n")
    if len(lines) > MAX_LINES:
        raise CommandRefused(f"File {path} exceeds maximum line limit of 999,999 lines.")
    first, last = 1, len(lines)
    if view_range is not None:
        if len(view_range) != 2:
            raise CommandRefused(f"Error: Invalid `view_range` parameter: {view_range}. It should be [first, last].")
        first, last = max(1, view_range[0]), len(lines) if view_range[1] == -1 else view_range[1]
        if not first <= len(lines) or last < first:
            raise CommandRefused(
                f"Error: Invalid `view_range` parameter: {view_range}. "
                f"It should be within the range of lines of the file: [1, {len(lines)}]"
            )
    return f"Here's the content of {path} with line numbers:\n{_numbered(lines, first, last)}"


def _create(path: str, text: str) -> Steps:
    inside = _inside(path)
    if not inside:
        raise CommandRefused(f"Error: File {path} already exists")
    try:
        yield Call("create", {"path": inside, "content": text})
    except Conflict as error:
        taken = _conflicting(error)
        if taken == inside or taken.startswith(f"{inside}/"):
            raise CommandRefused(f"Error: File {path} already exists") from error
        raise
    return f"File created successfully at: {path}"


def _str_replace(path: str, old: str, new: str) -> Steps:
    def replaced(text: str) -> str:
        count = text.count(old) if old else 0
        if count == 0:
            raise CommandRefused(f"No replacement was performed, old_str `{old}` did not appear verbatim in {path}.")
        if count > 1:
            lines = sorted({text.count("\n", 0, match.start()) + 1 for match in re.finditer(re.escape(old), text)})
            raise CommandRefused(
                f"No replacement was performed. Multiple occurrences of old_str `{old}` in lines: "
                f"{', '.join(map(str, lines))}. Please ensure it is unique"
            )
        return text.replace(old, new)

    before, after = yield from _edit(
        path, replaced, f"Error: The path {path} does not exist. Please provide a valid path."
    )
    changed = before.count("\n", 0, before.index(old)) + 1
    lines = after.split("\n")
    snippet = _numbered(lines, max(1, changed - 2), min(len(lines), changed + new.count("\n") + 2))
    return f"The memory file has been edited. Here is the snippet showing the change (with line numbers):\n{snippet}"


def _insert(path: str, after_line: int, text: str) -> Steps:
    def inserted(before: str) -> str:
        lines = before.removesuffix("\n").split("\n") if before else []
        if not 0 <= after_line <= len(lines):
            raise CommandRefused(
                f"Error: Invalid `insert_line` parameter: {after_line}. "
                f"It should be within the range of lines of the file: [0, {len(lines)}]"
            )
        return "\n".join([*lines[:after_line], text.removesuffix("\n"), *lines[after_line:]]) + "\n"

    yield from _edit(path, inserted, f"Error: The path {path} does not exist")
    return f"The file {path} has been edited."


def _delete(path: str) -> Steps:
    inside = _inside(path)
    if not inside:
        raise CommandRefused(f"Error: The {ROOT} directory itself cannot be deleted")
    found = yield from _find(inside)
    if found is False:
        raise CommandRefused(f"Error: The path {path} does not exist")
    for memory in (yield from _below(inside)) if isinstance(found, bool) else [found]:
        try:
            yield Call("delete", {"memory_id": memory.id})
        except NotFound:  # another has deleted it, which is what was asked for
            continue
    return f"Successfully deleted {path}"


def _rename(old_path: str, new_path: str) -> Steps:
    old, new = _inside(old_path), _inside(new_path)
    if not old:
        raise CommandRefused(f"Error: The {ROOT} directory itself cannot be renamed")
    found = yield from _find(old)
    if found is False:
        raise CommandRefused(f"Error: The path {old_path} does not exist")
    if (yield from _find(new)) is not False:
        raise CommandRefused(f"Error: The destination {new_path} already exists")
    if new.startswith(f"{old}/"):
        raise CommandRefused(f"Error: The destination {new_path} is in {old_path} itself")
    for memory in (yield from _below(old)) if isinstance(found, bool) else [found]:
        yield Call("update", {"memory_id": memory.id, "path": new + memory.path.removeprefix(old)})
    return f"Successfully renamed {old_path} to {new_path}"


def _edit(path: str, change: Callable[[str], str], missing: str) -> Generator[Call, Any, tuple[str, str]]:
    """Change a file's text, and anew where another wrote meanwhile; return the text before and after."""
    inside = _inside(path)
    found = yield from _find(inside)
    if isinstance(found, bool):
        raise CommandRefused(missing)
    for _ in range(ATTEMPTS):
        try:
            memory = yield Call("retrieve", {"memory_id": found.id, "view": "full"})
        except NotFound as error:
            raise CommandRefused(missing) from error
        before = memory.content or ""
        after = change(before)
        precondition = {"type": "content_sha256", "content_sha256": memory.content_sha256}
        try:
            yield Call("update", {"memory_id": found.id, "content": after, "precondition": precondition})
        except Conflict:
            continue
        except NotFound as error:
            raise CommandRefused(missing) from error
        return before, after
    raise CommandRefused(f"Error: {path} is being written by others. View it, and try again.")


def _content(memory: Entry, path: str) -> Generator[Call, Any, str]:
    try:
        found = yield Call("retrieve", {"memory_id": memory.id, "view": "full"})
    except NotFound as error:
        raise CommandRefused(f"The path {path} does not exist. Please provide a valid path.") from error
    return str(found.content or "")


def _find(inside: str) -> _Found:
    """Look a path up among its siblings, which come in byte order."""
    if not inside:
        return True
    parent = inside[: inside.rindex("/") + 1]
    page = None
    while True:
        found = yield _list(parent, page, depth=1)
        for entry in found.data:
            if entry.path == inside:
                return entry  # type: ignore[no-any-return]  # a memory: prefixes end in a slash
            if entry.path == f"{inside}/":
                return True
            if entry.path.encode() > f"{inside}/".encode():
                return False
        page = found.next_page
        if page is None:
            return False


def _below(inside: str) -> _Listed:
    """Return all memories below a directory."""
    memories: list[Entry] = []
    page = None
    while True:
        found = yield _list(f"{inside}/", page)
        memories += found.data
        page = found.next_page
        if page is None:
            return memories


def _list(prefix: str, page: str | None, depth: int = 0) -> Call:
    more: dict[str, Any] = ({} if page is None else {"page": page}) | ({"depth": depth} if depth else {})
    return Call("list", {"path_prefix": prefix, "limit": PAGE, "view": "basic", **more})


def _directory(path: str, memories: Sequence[Entry]) -> str:
    """Render what is up to two levels below a directory; a directory is as large as all that is shown in it."""
    sizes = {path: 0}
    for memory in memories:
        steps = (ROOT + memory.path).removeprefix(f"{path}/").split("/")
        if any(step.startswith(".") or step == "node_modules" for step in steps):
            continue
        sizes[path] += memory.content_size_bytes
        for depth in range(1, min(len(steps), 2) + 1):
            entry = "/".join([path, *steps[:depth]]) + ("/" if depth < len(steps) else "")
            sizes[entry] = sizes.get(entry, 0) + memory.content_size_bytes
    lines = "\n".join(f"{_size(size)}\t{entry}" for entry, size in sizes.items())
    head = f"Here're the files and directories up to 2 levels deep in {path}, excluding hidden items and node_modules:"
    return f"{head}\n{lines}"


def _numbered(lines: Sequence[str], first: int, last: int) -> str:
    return "\n".join(f"{number:6}\t{line}" for number, line in enumerate(lines[first - 1 : last], first))


def _size(count: int) -> str:
    """Return bytes as `du -h` tells them: `0B`, `1.5K`, `2M`."""
    if count < 1024:
        return f"{count}B"
    size, unit = (count / 1024, "K") if count < 1024**2 else (count / 1024**2, "M")
    return f"{size:.1f}".removesuffix(".0") + unit


def _inside(path: str) -> str:
    """Return the path in the store: `/memories/a/b` is `/a/b`, the root is empty. Raises CommandRefused."""
    if path != ROOT and not path.startswith(f"{ROOT}/"):
        raise CommandRefused(f"Error: The path {path} must start with {ROOT}")
    # Nothing decodes a path on its way; one that some reader might decode to a way out is refused all the same.
    if any(step in (".", "..") for step in re.split(r"[/\\]", unquote(path))):
        raise CommandRefused(f"Error: The path {path} would escape the {ROOT} directory")
    return path.removeprefix(ROOT).rstrip("/")


def _conflicting(error: Conflict) -> str:
    """Return the path of the memory that is in the way; empty where the error names none."""
    return str((error.details or {}).get("conflicting_path") or "")
