"""The persona: what it stores when told, what it answers from memory, and what it never claims."""

from __future__ import annotations

from typing import Any

import pytest

from trunkline.memory.blocks import parse_memory
from trunkline.memory.declarations import declared
from trunkline.memory.render import empty, render
from trunkline.memory.tools import tool_definitions
from trunkline.model_server import persona
from trunkline.model_server.prompt import Answer, Message, Prompt, Tool, ToolResult

EMPTY = """<trunkline-memory>
<memory block="customer" scope="user">
Who the customer is: a note with a colon.
unknown: preferences, recent_purchases
required but unknown: name
</memory>
</trunkline-memory>"""
KNOWN = """<trunkline-memory>
<memory block="customer" scope="user">
Who the customer is and what they like.
name: "Ada \\u003cLovelace\\u003e"
preferences: {"colour":"green","size":"M"}
recent_purchases: ["red kettle","blue mug"]
required but unknown: email
</memory>
</trunkline-memory>"""
UPDATE = Tool("memory_update", "Change what is remembered.", {"type": "object", "properties": {}})


def prompt(user: str, system: str = "", tools: tuple[Tool, ...] = (UPDATE,), **options: Any) -> Prompt:
    messages = (Message("system", system), Message("user", user)) if system else (Message("user", user),)
    return Prompt("m", messages, (), system=system, tools=tools, **options)


def operations(user: str, system: str = EMPTY, tools: tuple[Tool, ...] = (UPDATE,)) -> list[tuple[Any, ...]]:
    answer = persona.answer(prompt(user, system, tools))
    assert len(answer.tool_calls) <= 1
    if not answer.tool_calls:
        return []
    return [(o["op"], o["block"], o["field"], o.get("value")) for o in answer.tool_calls[0].arguments["operations"]]


def after_tool(asked: Prompt, result: str, *, is_error: bool = False) -> str:
    called = persona.answer(asked)
    calls = tuple(type(c)(c.name, c.arguments, "call_1") for c in called.tool_calls)
    said = (
        Message("assistant", tool_calls=calls),
        Message("tool", tool_results=(ToolResult("call_1", result, is_error),)),
    )
    answer = persona.answer(Prompt("m", asked.messages + said, (), system=asked.system, tools=asked.tools))
    assert not answer.tool_calls, "a tool's answer must not start another call"
    return answer.text


NAME = ("set", "customer", "name", "Ada Lovelace")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("My name is Ada Lovelace.", [NAME]),
        ("Hi, I'm called Ada Lovelace!", [NAME]),
        ("call me Ada Lovelace", [NAME]),
        ("I bought a red kettle", [("append", "customer", "recent_purchases", "red kettle")]),
        ("I bought a red kettle last week.", [("append", "customer", "recent_purchases", "red kettle")]),
        ("I've just ordered an umbrella from you yesterday", [("append", "customer", "recent_purchases", "umbrella")]),
        (
            "I bought two spoons and a blue mug two days ago",
            [
                ("append", "customer", "recent_purchases", "two spoons"),
                ("append", "customer", "recent_purchases", "blue mug"),
            ],
        ),
        ("I prefer green", [("merge", "customer", "preferences", {"colour": "green"})]),
        ("I prefer green over blue.", [("merge", "customer", "preferences", {"colour": "green"})]),
        ("my favorite color is green", [("merge", "customer", "preferences", {"colour": "green"})]),
        ("My favourite fruit is mango.", [("merge", "customer", "preferences", {"fruit": "mango"})]),
        ("I take size m", [("merge", "customer", "preferences", {"size": "M"})]),
        ("I hate rain", [("merge", "customer", "preferences", {"rain": "disliked"})]),
        (
            "My name is Ada Lovelace and I bought a red kettle last week, and I prefer green and size M.",
            [
                NAME,
                ("append", "customer", "recent_purchases", "red kettle"),
                ("merge", "customer", "preferences", {"colour": "green"}),
                ("merge", "customer", "preferences", {"size": "M"}),
            ],
        ),
        ("Forget my name.", [("remove", "customer", "name", None)]),
        ("I returned the red kettle.", [("remove", "customer", "recent_purchases", "red kettle")]),
        ("My email is ada@example.org", []),  # no such field
        ("Did I say that my name is Bob?", []),
        ("Do you know what I bought last week?", []),
        ("My name is not Bob.", []),
        ("The weather is fine.", []),
    ],
)
def test_facts_become_operations(said: str, expected: list[tuple[Any, ...]]) -> None:
    assert operations(said) == expected


def test_own_field_is_preferred_to_preferences_and_lists_are_appended_to() -> None:
    first, second = "note: 1", 'likes: ["tea"]\nunknown: favourite_colour'
    memory = f'<memory block="a">\n{first}\n</memory>\n<memory block="b">\n{second}\n</memory>'
    assert operations("My favourite colour is green", memory) == [("set", "b", "favourite_colour", "green")]
    assert operations("I like hiking", memory) == [("append", "b", "likes", "hiking")]


def test_fields_are_also_read_from_the_tools_schema() -> None:
    items = {"properties": {"block": {"const": "shopper"}, "field": {"enum": ["name", "plan"]}}}
    by_schema = Tool("memory_update", "", {"properties": {"operations": {"items": {"oneOf": [items]}}}})
    assert operations("My plan is gold", "", (by_schema,)) == [("set", "shopper", "plan", "gold")]


def test_the_real_memory_tools_and_blocks_are_understood() -> None:
    fields = {
        "name": {"type": "string", "required": True},
        "age": {"type": "integer"},
        "likes": {"type": "string"},
        "recent_purchases": {"type": "array", "items": {"type": "string"}},
        "preferences": {"type": "object", "additionalProperties": {"type": "string"}},
    }
    memory = parse_memory({"blocks": {"customer": {"scope": "user", "description": "A: b.", "fields": fields}}})
    tools = tuple(
        Tool(t["name"], t["description"], t["input_schema"])
        for t in tool_definitions(memory, [declared(b) for b in memory.blocks])
    )
    stated = "My age is 36. I prefer green. I like tea. My name is Ada. I bought a red kettle."
    expected = [
        ("set", "customer", "age", 36),
        ("merge", "customer", "preferences", {"colour": "green"}),
        ("set", "customer", "likes", "tea"),
        ("set", "customer", "name", "Ada"),
        ("append", "customer", "recent_purchases", "red kettle"),
    ]
    assert operations(stated, "", tools) == expected
    (block,) = memory.blocks
    assert operations(stated, empty(block).text, tools) == expected
    known = render(block, {"name": "Ada", "preferences": {"colour": "green"}}).text
    assert persona.answer(prompt("What do you know about me?", known)).text == (
        "Your name is Ada. You prefer colour green."
    )
    assert "still do not know your name" in persona.answer(prompt("Who am I?", empty(block).text)).text
    refused = after_tool(prompt("My name is Ada", known, tools), "Not saved; nothing was changed. name: too long.")
    assert refused == "I could not store that: Not saved; nothing was changed. name: too long."
    same = after_tool(prompt("My name is Ada", known, tools), "Nothing to change: customer holds this already.")
    assert same == "Noted: your name is Ada."


def test_confirms_what_was_stored_and_says_what_was_not() -> None:
    asked = prompt("My name is Ada and I bought a red kettle. My email is a@b.c.", EMPTY)
    text = after_tool(asked, "customer updated")
    assert text.startswith("Noted: your name is Ada; you bought a red kettle.")
    assert "not stored it: your email is a@b.c" in text


@pytest.mark.parametrize(
    ("result", "is_error"),
    [("Error: customer.name must be text", False), ("customer.name must be text", True), ('{"error": "full"}', False)],
)
def test_says_that_storing_failed(result: str, is_error: bool) -> None:
    text = after_tool(prompt("My name is Ada", EMPTY), result, is_error=is_error)
    assert text.startswith("I could not store that: ")
    assert "Noted" not in text


def test_answers_a_question_asked_together_with_a_fact() -> None:
    text = after_tool(prompt("My name is Ada. What do you know about me?", EMPTY), "ok")
    assert text == "Noted: your name is Ada. Your name is Ada."


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        (
            "What do you know about me?",
            (
                "Your name is Ada <Lovelace>. You prefer colour green, size M. You bought red kettle, blue mug. "
                "I still do not know your email."
            ),
        ),
        ("What is my name?", "Your name is Ada <Lovelace>. I still do not know your email."),
        ("what did i buy", "You bought red kettle, blue mug. I still do not know your email."),
        ("What do I like?", "You prefer colour green, size M. I still do not know your email."),
        ("What is my favourite color?", "You prefer colour green. I still do not know your email."),
        ("What is my email?", "I still do not know your email."),
        (
            "Who am I and what did I buy?",
            "Your name is Ada <Lovelace>. You bought red kettle, blue mug. I still do not know your email.",
        ),
        ("What is the capital of France?", "I do not know that."),
    ],
)
def test_answers_from_the_blocks(question: str, expected: str) -> None:
    assert persona.answer(prompt(question, KNOWN)) == Answer(expected)


def test_names_what_is_required_but_unknown() -> None:
    text = persona.answer(prompt("What do you know about me?", EMPTY)).text
    assert text == "I do not know anything about you yet. I still do not know your name."


RECALL = """<trunkline-recall>
- [2026-11-20 user] My name is Ada Lovelace.
- [2026-11-20 assistant] Noted: your name is Bob.
- [2026-11-21 user] What is my name?
- [2026-11-21 user] My dog Rex is ill.
</trunkline-recall>

"""


def test_answers_from_recall_where_blocks_are_silent() -> None:
    assert persona.answer(prompt(f"{RECALL}What is my name?", EMPTY)).text == (
        'You told me on 2026-11-20: "My name is Ada Lovelace."'
    )
    assert "Ada <Lovelace>" in persona.answer(prompt(f"{RECALL}What is my name?", KNOWN)).text
    assert persona.answer(prompt(f"{RECALL}How is my dog?")).text == 'You told me on 2026-11-21: "My dog Rex is ill."'


def test_recall_is_no_statement_of_the_user() -> None:
    assert operations(f"{RECALL}Hello") == []


def test_knows_nothing_without_memory_even_if_it_was_said_before() -> None:
    messages = (
        Message("user", "My name is Ada"),
        Message("assistant", "Noted: your name is Ada."),
        Message("user", "What is my name?"),
    )
    text = persona.answer(Prompt("m", messages, ())).text
    assert text == "I do not know anything about you: there is no memory in my prompt."


def test_never_claims_to_store_without_the_tool() -> None:
    answer = persona.answer(prompt("My name is Ada", EMPTY, tools=()))
    assert not answer.tool_calls
    assert "not stored" in answer.text
    declined = persona.answer(prompt("My name is Ada", EMPTY, tool_choice="none"))
    assert not declined.tool_calls
    assert "Noted" not in declined.text


def test_searches_and_reads_when_told_to() -> None:
    tools = (Tool("memory_search", "", {}), Tool("memory_read", "", {}))
    search = persona.answer(prompt("Search your memory for red kettles.", KNOWN, tools)).tool_calls[0]
    assert (search.name, search.arguments) == ("memory_search", {"query": "red kettles"})
    read = persona.answer(prompt("Please read your customer memory", KNOWN, tools)).tool_calls[0]
    assert (read.name, read.arguments) == ("memory_read", {"block": "customer"})
    assert after_tool(prompt("Search your memory for tea", KNOWN, tools), "- tea") == "From memory: - tea"


def test_forced_tools_and_schemas_are_obeyed() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}, "k": {"enum": ["a"]}}, "required": ["n", "k"]}
    forced = persona.answer(prompt("hello", tools=(UPDATE, Tool("f", "", schema)), tool_choice="f"))
    assert [(call.name, call.arguments) for call in forced.tool_calls] == [("f", {"n": 0, "k": "a"})]
    assert persona.answer(prompt("hello", json_schema=schema)).text == '{"n":0,"k":"a"}'
