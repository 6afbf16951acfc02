"""A block as the model reads it. Pure: the same definition, value, states and moment give the same bytes.

Most reads take the text that was made when the block was written. It holds until a field becomes stale (`again_at`) or
the agent declares the block otherwise; from then on `trunkline.render_block` in Postgres puts it together anew, of the
lines that `parts` makes here, and in the same way as `render` does.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from trunkline.domain.times import from_wire, now
from trunkline.memory.blocks import BlockDefinition
from trunkline.memory.states import State, effective
from trunkline.memory.values import canonical, shown

# What could forge a tag or a line, or be read by the model but not seen by a person: angle brackets; DEL and C1
# controls; line and paragraph separators; bidirectional controls; the byte order mark; Unicode tags.
_UNSAFE: Final = re.compile(
    "[<>\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\U000e0000-\U000e007f]"
)
_AGAINST_SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class Rendered:
    """The text of a block, its estimated size in tokens, and when it changes without a write; None: never."""

    text: str
    tokens: int
    again_at: datetime | None = None


def estimate_tokens(text: str) -> int:
    """Estimate tokens as UTF-8 bytes / 4, rounded up: near the truth for English, high for most other scripts."""
    return -(-_size(text) // 4)


def escape(text: str) -> str:
    r"""Replace characters that could forge structure by their JSON escapes (`<` becomes `\u003c`)."""
    return _UNSAFE.sub(lambda match: _escaped(match.group()), text)


def _escaped(character: str) -> str:
    # json.dumps leaves ASCII as it is, and makes two escapes of a character beyond U+FFFF.
    return f"\\u{ord(character):04x}" if ord(character) < 0x80 else json.dumps(character)[1:-1]


def head(block: BlockDefinition) -> str:
    """Return what stands before a block's fields."""
    tag = f'<memory block="{block.name}" scope="{block.scope}">'
    words = " ".join(block.description.split())
    return f"{tag}\n{escape(words)}" if words else tag


def keep_order(block: BlockDefinition) -> list[str]:
    """Return the fields in the order in which they are kept where the text is cut: required, by priority, by name."""
    return sorted(block.fields, key=lambda name: (name not in block.required, -block.rule(name).priority, name))


def digest(block: BlockDefinition) -> str:
    """Return a short text that differs where a block's rendering would."""
    what = [head(block), sorted(block.fields), sorted(block.required), keep_order(block), block.token_budget]
    return hashlib.sha256(canonical(what).encode()).hexdigest()[:16]


def parts(value: Mapping[str, Any], states: Mapping[str, State]) -> dict[str, dict[str, str]]:
    """Return the lines of all fields, and what else was said of those in conflict, for whoever renders later."""
    return {
        "lines": {
            name: f"{name}: {escape(json.dumps(item, sort_keys=True, ensure_ascii=False))}"
            for name, item in value.items()
        },
        "against": {
            name: " or ".join(escape(shown(other["value"])) for other in state["against"][:_AGAINST_SHOWN])
            + (f" or {len(state['against']) - _AGAINST_SHOWN} more" if len(state["against"]) > _AGAINST_SHOWN else "")
            for name, state in states.items()
            if state.get("against")
        },
    }


def render(
    block: BlockDefinition,
    value: Mapping[str, Any],
    states: Mapping[str, State] | None = None,
    at: datetime | None = None,
    *,
    whole: bool = False,
) -> Rendered:
    """Render a block's value as it stands at a moment, by default now.

    One line a known field, sorted by name, its value as JSON with sorted keys; then a line each for what is left out,
    unknown, required but unknown, stale, and conflicted. Fields that the definition does not declare are left out.
    Unless it is wanted `whole`, a block over its token budget is cut field by field, in `keep_order`.
    """
    states, at = states or {}, at or now()
    made = parts(value, states)
    lines, against = made["lines"], made["against"]
    known = sorted(name for name in value if name in block.fields)
    unknown = sorted(name for name in block.fields if name not in value)
    stale = [name for name in known if effective(states.get(name), at) == "stale"]
    tail = "".join(
        f"\n{label}: {separator.join(names)}"
        for label, separator, names in (
            ("unknown", ", ", [name for name in unknown if name not in block.required]),
            ("required but unknown", ", ", [name for name in unknown if name in block.required]),
            ("stale, confirm before use", ", ", stale),
            ("conflicted", "; ", [f"{n}, also said to be {against[n]}" for n in known if n in against]),
        )
        if names
    )
    begin, end = head(block), f"{tail}\n</memory>"
    body = "".join("\n" + lines[name] for name in known)
    if not whole and block.token_budget is not None and _size(begin + body + end) > block.token_budget * 4:
        body = _cut(block, lines, known, block.token_budget * 4 - _size(begin + end))
    moments = [from_wire(states[name]["stale_at"]) for name in known if "stale_at" in states.get(name, {})]
    later = [moment for moment in moments if moment > at]
    text = begin + body + end
    return Rendered(text, estimate_tokens(text), min(later, default=None))


def _cut(block: BlockDefinition, lines: Mapping[str, str], known: list[str], room: int) -> str:
    """Return the lines that fit into `room` bytes, and a line that names the fields left out."""
    kept = set()
    for name in keep_order(block):
        if name in lines and _size(lines[name]) < room:
            room -= _size(lines[name]) + 1
            kept.add(name)
    left = [name for name in known if name not in kept]
    return "".join("\n" + lines[name] for name in known if name in kept) + (
        f"\nleft out, too long: {', '.join(left)}" if left else ""
    )


def _size(text: str) -> int:
    return len(text.encode())


def empty(block: BlockDefinition) -> Rendered:
    """Render a block that nobody has written yet."""
    return render(block, {})
