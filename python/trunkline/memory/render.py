"""A block as the model reads it. Pure and deterministic: the same definition and value give the same bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from trunkline.memory.blocks import BlockDefinition

# What could forge a tag or a line, or be read by the model but not seen by a person: angle brackets; DEL and C1
# controls; line and paragraph separators; bidirectional controls; the byte order mark; Unicode tags.
_UNSAFE: Final = re.compile(
    "[<>\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\U000e0000-\U000e007f]"
)


@dataclass(frozen=True, slots=True)
class Rendered:
    """The text of a block and its estimated size in tokens."""

    text: str
    tokens: int


def estimate_tokens(text: str) -> int:
    """Estimate tokens as UTF-8 bytes / 4, rounded up: near the truth for English, high for most other scripts."""
    return -(-len(text.encode()) // 4)


def escape(text: str) -> str:
    r"""Replace characters that could forge structure by their JSON escapes (`<` becomes `\u003c`)."""
    return _UNSAFE.sub(lambda match: _escaped(match.group()), text)


def _escaped(character: str) -> str:
    # json.dumps leaves ASCII as it is, and makes two escapes of a character beyond U+FFFF.
    return f"\\u{ord(character):04x}" if ord(character) < 0x80 else json.dumps(character)[1:-1]


def render(block: BlockDefinition, value: Mapping[str, Any]) -> Rendered:
    """Render a block's value.

    One line a known field, sorted by name, its value as JSON with sorted keys; then the unknown fields, the required
    ones on a line of their own. Fields that the definition does not declare are left out.
    """
    lines = [f'<memory block="{block.name}" scope="{block.scope}">']
    if block.description:
        lines.append(escape(" ".join(block.description.split())))
    known = sorted(name for name in value if name in block.fields)
    lines += [f"{name}: {escape(json.dumps(value[name], sort_keys=True, ensure_ascii=False))}" for name in known]
    unknown = sorted(name for name in block.fields if name not in value)
    if optional := [name for name in unknown if name not in block.required]:
        lines.append(f"unknown: {', '.join(optional)}")
    if required := [name for name in unknown if name in block.required]:
        lines.append(f"required but unknown: {', '.join(required)}")
    lines.append("</memory>")
    text = "\n".join(lines)
    return Rendered(text, estimate_tokens(text))


def empty(block: BlockDefinition) -> Rendered:
    """Render a block that nobody has written yet."""
    return render(block, {})
