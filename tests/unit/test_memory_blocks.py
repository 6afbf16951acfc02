from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from pydantic import BaseModel, Field

from trunkline.domain.memory import AgentBlock
from trunkline.errors import InvalidRequest
from trunkline.memory.blocks import Block, parse_block, parse_memory, stored_block
from trunkline.memory.values import canonical

EXAMPLES = Path(__file__).parents[2] / "examples"


def memory_of(name: str) -> Any:
    return yaml.safe_load((EXAMPLES / name).read_text(encoding="utf-8"))["agent"]["memory"]


def block(**fields: Any) -> Any:
    return {"blocks": {"customer": {"fields": fields}}}


def refusal(definition: Any) -> str:
    with pytest.raises(InvalidRequest) as caught:
        parse_memory(definition)
    return caught.value.message


def test_the_smallest_agent_has_memory_with_every_default() -> None:
    memory = parse_memory(memory_of("smallest.yaml"))
    assert memory.enabled
    assert memory.refresh
    assert memory.tools
    assert memory.blocks == ()
    assert (memory.token_budget, memory.recall_tokens, memory.on_unavailable) == (2000, 500, "continue")


def test_an_agent_without_memory_has_none() -> None:
    memory = parse_memory(None)
    assert (memory.enabled, memory.tools, memory.recall_tokens, memory.blocks) == (False, False, 0, ())


def test_the_example_declares_the_customer() -> None:
    (customer,) = parse_memory(memory_of("support_resolver.yaml")).blocks
    assert (customer.name, customer.scope, customer.required) == ("customer", "user", ("name",))
    assert customer.description == "Who the customer is and what they like."
    assert customer.fields == {
        "name": {"type": "string"},
        "recent_purchases": {"type": "array", "items": {"type": "string"}, "maxItems": 20},
        "preferences": {"type": "object", "additionalProperties": {"type": "string"}},
    }


def test_there_is_no_recall_without_pgvector_unless_asked_for() -> None:
    assert parse_memory({"backends": ["postgres"]}).recall_tokens == 0
    assert parse_memory({"backends": ["postgres"], "recall": True}).recall_tokens == 500
    assert parse_memory({"recall": False, "recall_tokens": 900}).recall_tokens == 0


def test_blocks_stand_in_the_order_of_the_prompt() -> None:
    field = {"fields": {"text": {"type": "string"}}}
    blocks = {
        "d": {"scope": "session", **field},
        "c": {"scope": "user", **field},
        "a2": {"scope": "org", **field},
        "b": {"scope": "agent", **field},
        "a1": {"scope": "org", **field},
    }
    assert [found.name for found in parse_memory({"blocks": blocks}).blocks] == ["a2", "a1", "b", "c", "d"]


@pytest.mark.parametrize(
    ("definition", "words"),
    [
        ([], "memory: must be a mapping"),
        ({"token_bugdet": 1}, "memory.token_bugdet: unknown key; did you mean token_budget?"),
        ({"blocks": {"customer": {"scoop": "user"}}}, "memory.blocks.customer.scoop: unknown key; did you mean scope?"),
        ({"blocks": {"customer": {"scope": "galaxy"}}}, "memory.blocks.customer.scope: must be org or agent or user"),
        ({"blocks": {"customer": {}}}, "memory.blocks.customer.fields: must be a mapping, got nothing"),
        ({"blocks": {"a b": {"fields": {"x": {}}}}}, "memory.blocks.a b: a block's name is"),
        ({"backends": ["redis"]}, "memory.backends: must be a list with postgres"),
        ({"backends": ["postgres", "redis"]}, "memory.backends[1]: must be postgres or pgvector"),
        ({"type": "forgetful"}, "memory.type: must be session_persistent"),
        ({"refresh_on_every_turn": "yes"}, "memory.refresh_on_every_turn: must be true or false"),
        ({"prompt_cache": "yes"}, "memory.prompt_cache: must be true, false or a mapping"),
        ({"prompt_cache": {"ttl": 3}}, "memory.prompt_cache.ttl: unknown key"),
        ({"prompt_cache": {"ttl_seconds": 0}}, "memory.prompt_cache.ttl_seconds: must be a whole number of seconds"),
        ({"prompt_cache": {"cache_control": 1}}, "memory.prompt_cache.cache_control: must be true or false"),
        ({"token_budget": -1}, "memory.token_budget: must be a whole number"),
        ({"token_budget": True}, "memory.token_budget: must be a whole number"),
        ({"on_unavailable": "panic"}, "memory.on_unavailable: must be continue or fail"),
        (block(name="string"), "memory.blocks.customer.fields.name: expected a JSON Schema"),
        (block(name={"type": "sting"}), "memory.blocks.customer.fields.name.type: not valid JSON Schema"),
        (block(name={"typ": "string"}), 'unknown keyword "typ"'),
        (block(**{"a.b": {"type": "string"}}), "memory.blocks.customer.fields.a.b: a field's name is"),
        (block(a={"$ref": "https://example.com/schema"}), "leaves the block"),
        (block(a={"$ref": "#/$defs/b"}), "points to nothing"),
        (block(a={"type": "object", "properties": {"b": {"required": True}}}), "required: true is for a field itself"),
        (block(a={"pattern": "(?=x)"}), "look-around"),
        (block(a={"pattern": "("}), "unclosed group"),
        (block(a={"pattern": "((a{1000}){1000}){1000}"}), "size limit"),
        (block(a={"patternProperties": {"(a+)+$": {}}}), 'unknown keyword "patternProperties"'),
        (block(a={"default": "\0"}), "NUL"),
    ],
)
def test_a_bad_definition_is_refused_with_its_place(definition: Any, words: str) -> None:
    assert words in refusal(definition)


def test_a_recursive_schema_is_refused() -> None:
    definition = {
        "fields": {"tree": {"$ref": "#/$defs/node"}},
        "$defs": {"node": {"type": "object", "properties": {"children": {"items": {"$ref": "#/$defs/node"}}}}},
    }
    assert "reaches itself" in refusal({"blocks": {"customer": definition}})


def test_a_reference_bomb_is_refused_before_it_grows() -> None:
    definitions: dict[str, Any] = {"d0": {"type": "string"}}
    for level in range(1, 14):
        below = {"$ref": f"#/$defs/d{level - 1}"}
        definitions[f"d{level}"] = {"type": "object", "properties": {f"p{n}": below for n in range(10)}}
    definition = {"fields": {"bomb": {"$ref": "#/$defs/d13"}}, "$defs": definitions}
    message = refusal({"blocks": {"customer": definition}})
    assert "sub-schemas" in message or "schemas deep" in message


def test_a_deep_schema_is_refused() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(25):
        schema = {"type": "array", "items": schema}
    assert "deep" in refusal(block(a=schema))
    for _ in range(5000):
        schema = {"type": "array", "items": schema}
    assert "deep" in refusal(block(a=schema))


def test_a_catastrophic_pattern_is_harmless() -> None:
    customer = parse_memory(block(code={"type": "string", "pattern": "^(a+)+$"})).blocks[0]
    assert customer.problems({"code": "a" * 50_000}) == []
    began = time.process_time()
    assert "must match" in customer.problems({"code": "a" * 50_000 + "b"})[0]
    assert time.process_time() - began < 30, "a backtracking engine would not return at all"


def test_many_unequal_items_are_compared_in_linear_time() -> None:
    customer = parse_memory(block(items={"type": "array", "uniqueItems": True})).blocks[0]
    items: list[Any] = [{"n": number} for number in range(9_000)]
    assert customer.problems({"items": items}) == []
    assert "must all differ" in customer.problems({"items": [*items, {"n": 0}]})[0]
    assert customer.problems({"items": [1, True, "1", [1], 0, False]}) == []
    assert customer.problems({"items": [1, 1.0]}) != []


def test_required_fields_may_be_missing_from_a_value() -> None:
    customer = parse_memory(memory_of("support_resolver.yaml")).blocks[0]
    assert customer.problems({}) == []
    assert customer.problems({"preferences": {}}) == []


@pytest.mark.parametrize(
    ("schema", "value", "words"),
    [
        ({"type": "string"}, 5, "customer.field: must be string, got integer 5"),
        ({"type": "string"}, None, "customer.field: must be string, got null"),
        ({"type": ["string", "null"]}, 5, "must be string or null"),
        ({"enum": ["red", "blue"]}, "green", 'must be one of ["red", "blue"], got "green"'),
        ({"type": "array", "maxItems": 1}, [1, 2], "may hold at most 1 items and would have 2; remove some first"),
        ({"type": "string", "maxLength": 3}, "abcd", "may be at most 3 characters long and has 4"),
        ({"type": "integer", "minimum": 3}, 2, "must be at least 3, got 2"),
        ({"type": "object", "additionalProperties": {"type": "string"}}, {"a": 1}, "customer.field.a: must be string"),
        (
            {"type": "object", "properties": {"a": {}}, "additionalProperties": False},
            {"b": 1},
            'has no "b"; allowed: a',
        ),
        ({"type": "object", "required": ["a", "b"]}, {"a": 1}, "needs b too"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "x", 'must be integer or null, got string "x"'),
        ({"format": "date"}, "yesterday", "must be a valid date"),
        ({"format": "date-time"}, "2026-01-01", "must be a valid date-time"),
        ({"format": "email"}, "nobody", "must be a valid email"),
        ({"type": "string"}, ["x" * 10_000_000], "must be string, got array"),
        ({"multipleOf": 0.1}, 1e308, "must be a multiple of 0.1"),
    ],
)
def test_a_fault_names_place_value_and_rule(schema: Any, value: Any, words: str) -> None:
    (fault,) = parse_memory(block(field=schema)).blocks[0].problems({"field": value})
    assert words in fault
    assert len(fault) < 1000


def test_fields_that_are_not_declared_do_not_hinder_writing_the_others() -> None:
    customer = parse_memory(block(name={"type": "string"})).blocks[0]
    assert customer.problems({"name": "Ada", "of_an_earlier_version": 1}) == []


class Address(BaseModel):
    city: str
    zip: str | None = None


class Customer(Block, scope="user"):
    """Who the customer is
    and what they like.
    """

    name: str = Field(description="Full name")
    address: Address
    tier: Literal["gold", "silver"] = "silver"
    recent_purchases: list[str] = Field(default_factory=list)
    age: int | None = None


class HouseRules(Block, scope="org", name="rules"):
    text: str = ""


def test_a_class_makes_the_same_form_as_yaml() -> None:
    customer = Customer.definition()
    assert (customer.name, customer.scope) == ("customer", "user")
    assert customer.description == "Who the customer is and what they like."
    assert customer.required == ("address", "name")
    assert customer.fields["address"]["properties"]["city"]["type"] == "string"
    assert customer.problems({"name": "Ada", "address": {"city": "London"}, "age": None}) == []
    assert customer.problems({"tier": "lead"}) != []
    assert parse_block("customer", customer.to_json(), "memory.blocks.customer") == customer


def test_a_class_may_be_named_otherwise_and_have_no_description() -> None:
    rules = HouseRules.definition()
    assert (rules.name, rules.scope, rules.description, rules.required) == ("rules", "org", "", ())


def test_an_agent_may_list_classes() -> None:
    memory = parse_memory({"blocks": [Customer, HouseRules]})
    assert [found.name for found in memory.blocks] == ["rules", "customer"]
    assert memory.block("customer") == Customer.definition()
    assert "must be a subclass" in refusal({"blocks": [Address]})


def test_a_class_with_an_unknown_scope_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="scope must be one of"):
        type("Odd", (Block,), {}, scope="galaxy")


def test_what_is_stored_becomes_the_same_definition() -> None:
    customer = Customer.definition()
    stored = AgentBlock(
        customer.name, customer.scope, customer.description, canonical(customer.schema), "{}", "", None, True
    )
    assert stored_block(stored).problems({"name": 1}) == customer.problems({"name": 1})
    assert stored_block(stored) is stored_block(stored), "compiled once"
