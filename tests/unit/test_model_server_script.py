"""The script: which rule answers, with what, and how a wrong file is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from trunkline.model_server import script
from trunkline.model_server.prompt import Message, Prompt, Tool, ToolCall, ToolResult
from trunkline.model_server.responder import Responder

EXAMPLE = Path(__file__).parents[2] / "examples" / "model_server_script.yaml"


def responder(tmp_path: Path, text: str) -> Responder:
    path = tmp_path / "script.yaml"
    path.write_text(text, encoding="utf-8")
    return Responder(script.load(path))


def says(user: str, *more: Message, tools: tuple[Tool, ...] = (), model: str = "m", system: str = "") -> Prompt:
    return Prompt(model, (Message("user", user), *more), (), tools=tools, system=system)


def tool_turn(result: str) -> tuple[Message, Message]:
    call = Message("assistant", tool_calls=(ToolCall("lookup_order", {}, "c1"),))
    return call, Message("tool", tool_results=(ToolResult("c1", result),))


def test_first_matching_rule_answers_with_groups_filled(tmp_path: Path) -> None:
    rules = responder(
        tmp_path,
        r"""
rules:
  - when: {user: 'order (\d+) for (?P<who>\w+)', system: 'shop (\w+)'}
    reply: "{{who}} ordered {{1}} by {{model}}: {{user}}"
  - reply: "anything else"
""",
    )
    assert rules.reply(says("Order 17 for Ada", system="shop Northwind")).answer.text == (
        "Ada ordered 17 by m: Order 17 for Ada"
    )
    assert rules.reply(says("Order 17 for Ada")).answer.text == "anything else"


def test_every_condition_must_hold(tmp_path: Path) -> None:
    rules = responder(
        tmp_path,
        """
rules:
  - when: {turn: 2}
    reply: second
  - when: {has_tool: lookup_order, last_role: user, model: '^big'}
    reply: has it
  - when: {recall: kettle}
    reply: recalled
  - reply: other
""",
    )
    tool = (Tool("lookup_order", "", {}),)
    assert rules.reply(says("a", Message("assistant", "b"), Message("user", "c"))).answer.text == "second"
    assert rules.reply(says("a", tools=tool, model="big-1")).answer.text == "has it"
    assert rules.reply(says("a", tools=tool, model="small")).answer.text == "other"
    assert rules.reply(says("<trunkline-recall>\n- kettle\n</trunkline-recall>\n\nhi")).answer.text == "recalled"
    assert rules.reply(says("kettle")).answer.text == "other"


def test_example_script_plays_a_tool_call_through() -> None:
    rules = Responder(script.load(EXAMPLE))
    tool = (Tool("lookup_order", "", {}),)
    first = rules.reply(says("Where is order number 4711?", tools=tool)).answer
    assert first.stop == "tool_calls"
    assert [(c.name, c.arguments) for c in first.tool_calls] == [("lookup_order", {"order_id": "4711"})]
    shipped = says("Where is order number 4711?", *tool_turn("status: shipped"), tools=tool)
    assert rules.reply(shipped).answer.text == "Good news: your order has been shipped."
    lost = says("Where is order number 4711?", *tool_turn("status: lost"), tools=tool)
    assert rules.reply(lost).answer.text == "The warehouse says: status: lost"


def test_times_bounds_a_rule_until_cleared() -> None:
    rules = Responder(script.load(EXAMPLE))
    busy = says("Are you busy?")
    assert [rules.reply(busy).faults.error for _ in range(3)] == [529, 529, None]
    assert rules.reply(busy).answer.text == "Not any more."
    rules.clear()
    assert rules.reply(busy).faults.error == 529


def test_rule_without_an_answer_leaves_it_to_the_persona(tmp_path: Path) -> None:
    reply = responder(tmp_path, "rules: [{usage: {input_tokens: 7}}]").reply(says("hello"))
    assert reply.answer.text == "Hello. How can I help you?"
    assert reply.usage is not None
    assert reply.usage.input_tokens == 7


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rules: [{name: greeting, replay: x}]", "rule 1 (greeting): unknown key `replay`; known here are name, when,"),
        ("rules: [{reply: a}, {when: {usr: x}}]", "rule 2: unknown key `when.usr`; known here are user, system,"),
        ("rules: [{when: {user: '('}}]", "rule 1: `when.user`: '(' is no regular expression"),
        ("rules: [{when: {user: 3}}]", "rule 1: `when.user`: write a regular expression as text"),
        ("rules: [{reply: '{{nmae}}'}]", "rule 1: {{nmae}} is no group of a pattern in `when`; known here are"),
        ("rules: [{tool_calls: [{arguments: {}}]}]", "rule 1: `tool_calls.0.name`: field required; add `name`"),
        ("rules: [{faults: {error: 200}}]", "rule 1: `faults.error`: input should be greater than or equal to 400"),
        ("rules: [{faults: {eror: 500}}]", "rule 1: unknown key `faults.eror`; known here are latency_ms"),
        ("rules: [{times: 0}]", "rule 1: `times`: "),
        ("rules: [3]", "rule 1: "),
        ("rules: 3", "`rules`: "),
        ("rulse: []", "unknown key `rulse`; known here are models, faults, rules"),
        ("rules: [", "line 1, column 9: not valid YAML"),
        ("- a", "a script is a mapping; start it with `rules:`"),
        ("", "a script is a mapping; start it with `rules:`"),
    ],
)
def test_wrong_script_is_refused_in_one_line(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(script.ScriptError) as refused:
        responder(tmp_path, text)
    message = str(refused.value)
    assert message.startswith(f"{tmp_path / 'script.yaml'}: {expected}")
    assert "\n" not in message


def test_missing_script_is_refused() -> None:
    with pytest.raises(script.ScriptError, match=r"nowhere\.yaml: cannot be read .* check the path"):
        script.load(Path("nowhere.yaml"))
