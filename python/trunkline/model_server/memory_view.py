"""What a prompt says about memory: the rendered blocks, the recall text, and the fields that exist."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from trunkline.model_server.prompt import Prompt, Tool

UPDATE, SEARCH, READ = "memory_update", "memory_search", "memory_read"

_OPENING = re.compile(r"<memory\b([^<>]*)>\n")
_CLOSING = "</memory>"
_ATTRIBUTE = re.compile(r'([\w-]+)="([^"]*)"')
_FIELD = re.compile(r"([A-Za-z_][\w-]*)(?: \([^)]*\))?: (.+)")
_UNKNOWN = re.compile(r"(required but unknown|unknown): (.+)")
_RECALLED = re.compile(r"- \[(\d{4}-\d\d-\d\d)?\s*(\w+)?\]\s*(.+)")
# How the description of `memory_update` lists blocks and their fields.
_DECLARED_BLOCK = re.compile(r"([A-Za-z_][\w-]*) \(kept for .*")
_DECLARED_FIELD = re.compile(r"- ([A-Za-z_][\w-]*) \((\w+).*")


@dataclass(slots=True)
class Block:
    """A block: the values it shows, its other fields, and the JSON type of those that the tool describes."""

    name: str
    values: dict[str, Any] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    required_unknown: list[str] = field(default_factory=list)
    types: dict[str, str] = field(default_factory=dict)

    @property
    def fields(self) -> list[str]:
        """All its fields, known first."""
        return list(dict.fromkeys([*self.values, *self.required_unknown, *self.unknown]))


@dataclass(frozen=True, slots=True)
class Recalled:
    """One recalled passage."""

    date: str
    role: str
    text: str


@dataclass(frozen=True, slots=True)
class MemoryView:
    """The memory in one prompt. `present` is false if the prompt holds neither blocks nor recall."""

    blocks: tuple[Block, ...]
    recalled: tuple[Recalled, ...]

    @property
    def present(self) -> bool:
        """Whether there is any memory at all."""
        return bool(self.blocks or self.recalled)


def view(prompt: Prompt) -> MemoryView:
    """Read the memory in a prompt. A block named twice is the later one: newer state follows older."""
    blocks: dict[str, Block] = {}
    for text in (prompt.system, *prompt.memory_updates):
        blocks |= {block.name: block for block in _blocks(text)}
    recalled = [passage for name, text in prompt.sections if name == "recall" for passage in _recalled(text)]
    return MemoryView(tuple(blocks.values()), tuple(recalled))


def writable(memory: MemoryView, tools: Iterable[Tool]) -> list[Block]:
    """Return the blocks that `memory_update` can write: those rendered, and those that only the tool speaks of."""
    blocks = {block.name: replace(block, unknown=list(block.unknown), types={}) for block in memory.blocks}
    update = next((tool for tool in tools if tool.name == UPDATE), None)
    if update is None:
        return []
    for block_name, field_name, kind in [*_described(update.description), *_in_schema(update.parameters)]:
        block = blocks.setdefault(block_name, Block(block_name))
        if field_name not in block.fields:
            block.unknown.append(field_name)
        if kind:
            block.types[field_name] = kind
    return list(blocks.values())


def _blocks(text: str) -> Iterator[Block]:
    position = 0
    while opening := _OPENING.search(text, position):
        position = text.find(_CLOSING, opening.end())
        if position < 0:
            return
        name = dict(_ATTRIBUTE.findall(opening[1])).get("block")
        if name:
            yield _block(name, text[opening.end() : position])


def _block(name: str, text: str) -> Block:
    block = Block(name)
    for line in text.splitlines():
        if unknown := _UNKNOWN.fullmatch(line):
            names = [part.strip() for part in unknown[2].split(",")]
            (block.required_unknown if unknown[1].startswith("required") else block.unknown).extend(names)
        elif value := _FIELD.fullmatch(line):
            try:  # a description may have a colon too, but no JSON after it
                block.values[value[1]] = json.JSONDecoder().raw_decode(value[2])[0]
            except ValueError:
                continue
    return block


def _recalled(text: str) -> Iterator[Recalled]:
    for line in text.splitlines():
        match = _RECALLED.match(line.strip())
        if match:
            yield Recalled(match[1] or "", match[2] or "user", match[3].strip())


def _described(description: str) -> Iterator[tuple[str, str, str]]:
    """(block, field, JSON type) of each field that a tool's description lists."""
    block = ""
    for line in description.splitlines():
        if declared := _DECLARED_BLOCK.fullmatch(line):
            block = declared[1]
        elif block and (declared := _DECLARED_FIELD.fullmatch(line)):
            yield block, declared[1], declared[2]


def _in_schema(schema: object) -> Iterator[tuple[str, str, str]]:
    """(block, field, "") of each pair that a JSON Schema fixes by `const` or `enum` side by side."""
    if isinstance(schema, Mapping):
        properties = schema.get("properties")
        if isinstance(properties, Mapping) and "block" in properties and "field" in properties:
            for block in _fixed(properties["block"]):
                for field_name in _fixed(properties["field"]):
                    yield block, field_name, ""
        for value in schema.values():
            yield from _in_schema(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _in_schema(value)


def _fixed(schema: object) -> list[str]:
    if not isinstance(schema, Mapping):
        return []
    values = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
    return [value for value in values if isinstance(value, str)]
