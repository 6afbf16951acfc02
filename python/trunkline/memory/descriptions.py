"""A JSON Schema in a few words, for the model that has to fill it in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from trunkline.memory.blocks import BlockDefinition
from trunkline.memory.values import shown

_BOUNDS: Final[dict[str, Callable[[Any], str]]] = {
    "maxItems": lambda bound: f"at most {bound} items",
    "minItems": lambda bound: f"at least {bound} items",
    "uniqueItems": lambda unique: "all different" if unique else "",
    "maxLength": lambda bound: f"at most {bound} characters",
    "minLength": lambda bound: f"at least {bound} characters",
    "minimum": lambda bound: f"at least {bound}",
    "exclusiveMinimum": lambda bound: f"more than {bound}",
    "maximum": lambda bound: f"at most {bound}",
    "exclusiveMaximum": lambda bound: f"less than {bound}",
    "multipleOf": lambda bound: f"a multiple of {bound}",
    "pattern": lambda pattern: f"matches {pattern}",
    "format": lambda name: f"{name} format",
}


def type_words(schema: Any, depth: int = 0) -> str:
    """Return what a schema admits, such as `array of string, at most 20 items`."""
    if not isinstance(schema, dict) or not schema or depth > 4:
        return "anything"
    if "enum" in schema:
        return f"one of {shown(schema['enum'], 400)}"
    if "const" in schema:
        return shown(schema["const"], 400)
    kind = schema.get("type")
    words = " or ".join(kind) if isinstance(kind, list) else str(kind or "")
    if kind == "array" and isinstance(schema.get("items"), dict):
        words = f"array of {type_words(schema['items'], depth + 1)}"
    elif kind == "object":
        words = _object_words(schema, depth)
    for several in ("anyOf", "oneOf", "allOf"):
        if not words and isinstance(schema.get(several), list):
            joint = " and " if several == "allOf" else " or "
            words = joint.join(type_words(option, depth + 1) for option in schema[several])
    bounds = [say(schema[keyword]) for keyword, say in _BOUNDS.items() if keyword in schema]
    return ", ".join([words or "anything", *(bound for bound in bounds if bound)])


def _object_words(schema: dict[str, Any], depth: int) -> str:
    properties = schema.get("properties") or {}
    if properties:
        needed = schema.get("required") or []
        members = "; ".join(
            f"{name}{' (needed)' if name in needed else ''}: {type_words(properties[name], depth + 1)}"
            for name in sorted(properties)
        )
        return f"object {{{members}}}"
    rest = schema.get("additionalProperties")
    return f"object whose values are {type_words(rest, depth + 1)}" if isinstance(rest, dict) and rest else "object"


def block_words(block: BlockDefinition) -> str:
    """Return a block and its fields, a line each, sorted by name."""
    lines = [f"{block.name} (kept for {_kept_for(block)}){f': {block.description}' if block.description else ''}"]
    for name in sorted(block.fields):
        schema = block.fields[name]
        needed = ", required" if name in block.required else ""
        told = schema.get("description") if isinstance(schema, dict) else None
        note = f": {' '.join(told.split())}" if isinstance(told, str) and told else ""
        lines.append(f"- {name} ({type_words(schema)}{needed}){note}")
    return "\n".join(lines)


def _kept_for(block: BlockDefinition) -> str:
    return {
        "org": "the whole organisation",
        "agent": "this agent, shared by all its users",
        "user": "this user",
        "session": "this conversation",
    }[block.scope]
