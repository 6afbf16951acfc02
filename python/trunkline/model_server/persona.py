"""The default persona: a small assistant that keeps what it is told with memory tools and answers from memory alone.

It never looks at earlier turns of the conversation, so what it knows it knows from memory: that is its use in a test.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from trunkline.model_server import facts, memory_view, questions, tokens
from trunkline.model_server.facts import Fact
from trunkline.model_server.memory_view import READ, SEARCH, UPDATE, Block, MemoryView
from trunkline.model_server.prompt import Answer, Prompt, ToolCall, ToolResult

_SHOWN_RESULT = 600  # characters of a tool's words that are repeated
_ERROR = re.compile(
    r"\s*(?:error\b|rejected\b|refused\b|failed\b|invalid\b|unknown (?:block|field|tool)\b|could not\b|cannot\b"
    r"|nothing (?:was )?(?:written|stored|changed|saved)|not (?:stored|written|saved)\b"
    r"|operation \d+\b.*(?:rejected|failed|invalid)"
    r"|\{\s*\"(?:is_)?error\")",
    re.IGNORECASE,
)
_SEARCH = re.compile(r"(?:please )?search (?:your |my |the )?memory for (.+)", re.IGNORECASE)
_READ = re.compile(r"(?:please )?read (?:your |my |the )?(?:([\w-]+) )?memory(?: block)?(?: ([\w-]+))?", re.IGNORECASE)
_GREETING = re.compile(r"\s*(?:hello|hi|hey|good (?:morning|afternoon|evening|day))\b", re.IGNORECASE)
_THANKS = re.compile(r"\b(?:thanks|thank you|cheers)\b", re.IGNORECASE)
_BYE = re.compile(r"\b(?:bye|goodbye|see you)\b", re.IGNORECASE)


def answer(prompt: Prompt) -> Answer:
    """Say what the persona says to a prompt: the same for the same prompt, always."""
    forced = prompt.tool_choice not in ("auto", "none")
    if forced and not prompt.results and (call := _forced_call(prompt)):
        return Answer(tool_calls=(call,), stop="tool_calls")
    if prompt.json_schema is not None:
        return Answer(tokens.compact(example(prompt.json_schema)))
    memory = memory_view.view(prompt)
    if prompt.results:
        return Answer(_after_tools(prompt, memory))
    if prompt.tool_choice != "none" and (call := _memory_call(prompt, memory)):
        return Answer(tool_calls=(call,), stop="tool_calls")
    return Answer(_talk(prompt, memory))


def example(schema: Mapping[str, Any]) -> Any:
    """Return the smallest value that a JSON Schema plainly allows: required properties only, first choices."""
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    if schema.get("enum"):
        return schema["enum"][0]
    for key in ("anyOf", "oneOf", "allOf"):
        if schema.get(key):
            return example(schema[key][0])
    kind = schema.get("type", "object")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        properties = schema.get("properties") or {}
        return {name: example(properties.get(name, {"type": "string"})) for name in schema.get("required") or ()}
    if kind == "array":
        return [example(schema.get("items") or {"type": "string"})] * int(schema.get("minItems", 0))
    if kind in ("integer", "number"):
        return schema.get("minimum", 0)
    return {"boolean": False, "null": None}.get(kind, "example")


def _forced_call(prompt: Prompt) -> ToolCall | None:
    memory_call = _memory_call(prompt, memory_view.view(prompt))
    if memory_call and prompt.tool_choice in ("required", memory_call.name):
        return memory_call
    wanted = [tool for tool in prompt.tools if prompt.tool_choice in ("required", tool.name)]
    return ToolCall(wanted[0].name, example(wanted[0].parameters or {"type": "object"})) if wanted else None


def _memory_call(prompt: Prompt, memory: MemoryView) -> ToolCall | None:
    """Return the memory tool that the newest user text asks for, if that tool is offered."""
    text = prompt.newest_user
    if SEARCH in prompt.tool_names and (match := _SEARCH.search(text)):
        return ToolCall(SEARCH, {"query": match[1].strip(" .?!\"'")})
    if READ in prompt.tool_names and (match := _READ.search(text)):
        named = {block.name for block in memory.blocks} & {match[1], match[2]}
        return ToolCall(READ, {"block": named.pop()} if named else {})
    if UPDATE not in prompt.tool_names:
        return None
    blocks = memory_view.writable(memory, prompt.tools)
    operations = [change for fact in facts.stated(text) if (change := facts.operation(fact, blocks))]
    ordered = [
        {name: change[name] for name in ("op", "block", "field", "value") if name in change} for change in operations
    ]
    return ToolCall(UPDATE, {"operations": ordered}) if ordered else None


def _after_tools(prompt: Prompt, memory: MemoryView) -> str:
    """One sentence for each tool's result, and the answers to what was also asked."""
    sentences: list[str] = []
    for call, result in prompt.results:
        if result.is_error or _ERROR.match(result.text):
            what = "store that" if call.name == UPDATE else f"use {call.name}"
            sentences.append(f"I could not {what}: {_shown(result)}")
        elif call.name == UPDATE:
            sentences.append(_confirmed(prompt, memory))
            memory = _overlaid(memory, call.arguments)
        elif call.name in (SEARCH, READ):
            sentences.append(
                f"From memory: {_shown(result)}" if result.text.strip() else "My memory holds nothing on that."
            )
        else:
            sentences.append(f"{call.name} says: {_shown(result)}")
    if any(call.name == UPDATE for call, _ in prompt.results) and (asked := questions.asked(prompt.newest_user)):
        sentences.append(questions.replied(asked, memory))
    return " ".join(sentences)


def _confirmed(prompt: Prompt, memory: MemoryView) -> str:
    blocks = memory_view.writable(memory, prompt.tools)
    kept: list[Fact] = []
    homeless: list[Fact] = []
    for fact in facts.stated(prompt.newest_user):
        (kept if facts.operation(fact, blocks) else homeless).append(fact)
    text = f"Noted: {'; '.join(fact.says for fact in kept)}." if kept else "Noted."
    return f"{text} {_homeless(homeless)}" if homeless else text


def _overlaid(memory: MemoryView, arguments: Mapping[str, Any]) -> MemoryView:
    """Return the memory with this turn's own operations in it: the prompt's blocks may be older than they are."""
    blocks = {
        block.name: Block(block.name, dict(block.values), list(block.unknown), list(block.required_unknown))
        for block in memory.blocks
    }
    for change in arguments.get("operations") or ():
        if not isinstance(change, Mapping) or change.get("block") not in blocks:
            continue
        block, field, value = blocks[change["block"]], str(change.get("field")), change.get("value")
        current = block.values.get(field)
        if change.get("op") == "append":
            block.values[field] = [*(current if isinstance(current, list) else []), value]
        elif change.get("op") == "merge" and isinstance(value, Mapping):
            block.values[field] = {**(current if isinstance(current, dict) else {}), **value}
        elif change.get("op") == "set":
            block.values[field] = value
        for names in (block.unknown, block.required_unknown):
            if field in names and field in block.values:
                names.remove(field)
    return MemoryView(tuple(blocks.values()), memory.recalled)


def _talk(prompt: Prompt, memory: MemoryView) -> str:
    """Return the reply when no tool is to be called."""
    text = prompt.newest_user
    if stated := facts.stated(text):
        told = _homeless(stated) if UPDATE in prompt.tool_names else _unstored()
        asked = questions.asked(text)
        return f"{told} {questions.replied(asked, memory)}" if asked else told
    name = _name(memory)
    if asked := questions.asked(text):
        return questions.replied(asked, memory)
    if _GREETING.match(text):
        return f"Hello, {name}. How can I help you?" if name else "Hello. How can I help you?"
    if _THANKS.search(text):
        return "You are welcome."
    if _BYE.search(text):
        return f"Goodbye, {name}." if name else "Goodbye."
    return "I see. Tell me something about yourself, or ask me what I know about you."


def _unstored() -> str:
    return "Thank you. I have no memory tools here, so I have not stored that."


def _homeless(stated: Sequence[Fact]) -> str:
    return f"I have no memory field for this, so I have not stored it: {'; '.join(fact.says for fact in stated)}."


def _name(memory: MemoryView) -> str | None:
    names = facts.TOPIC_FIELDS["name"]
    return next((str(b.values[n]) for b in memory.blocks for n in names if b.values.get(n)), None)


def _shown(result: ToolResult) -> str:
    """Return a tool's words; of JSON with a message, the message."""
    text = result.text.strip()
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if isinstance(value, dict):
        inner = value.get("error", value)
        message = inner.get("message") if isinstance(inner, dict) else inner
        text = message if isinstance(message, str) else text
    return text if len(text) <= _SHOWN_RESULT else text[:_SHOWN_RESULT] + "…"
