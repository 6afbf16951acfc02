from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from trunkline.errors import InvalidRequest
from trunkline.memory.blocks import parse_memory
from trunkline.memory.operations import Operation, apply, parse_operations, same
from trunkline.memory.values import MAX_DEPTH, check_value, identity

CUSTOMER = parse_memory(
    {
        "blocks": {
            "customer": {
                "fields": {
                    "name": {"type": "string", "required": True},
                    "recent_purchases": {"type": "array", "items": {"type": "string"}, "maxItems": 5},
                    "tags": {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
                    "preferences": {"type": "object", "additionalProperties": {"type": "string"}},
                    "visits": {"type": "integer"},
                    "nick": {"type": ["string", "null"]},
                    "profile": {"type": "object"},
                }
            }
        }
    }
).blocks[0]


def operations(*given: Any) -> list[Operation]:
    return parse_operations(list(given), "customer")


def after(value: Any, *given: Any) -> Any:
    return apply(CUSTOMER, value, operations(*given))


def refusal(value: Any, *given: Any) -> str:
    with pytest.raises(InvalidRequest) as caught:
        after(value, *given)
    assert len(caught.value.message) < 2000
    return caught.value.message


@pytest.mark.parametrize(
    ("before", "operation", "expected"),
    [
        ({}, {"op": "set", "field": "name", "value": "Ada"}, {"name": "Ada"}),
        ({"name": "Bob"}, {"op": "set", "field": "name", "value": "Ada"}, {"name": "Ada"}),
        ({}, {"op": "set", "field": "nick", "value": None}, {"nick": None}),
        ({}, {"op": "set", "field": "preferences.colour", "value": "green"}, {"preferences": {"colour": "green"}}),
        ({}, {"op": "set", "field": ["preferences", "a.b"], "value": "x"}, {"preferences": {"a.b": "x"}}),
        ({}, {"op": "set", "field": "customer.name", "value": "Ada"}, {"name": "Ada"}),
        ({"tags": ["a", "b"]}, {"op": "set", "field": "tags.1", "value": "c"}, {"tags": ["a", "c"]}),
        ({}, {"op": "append", "field": "recent_purchases", "value": "lamp"}, {"recent_purchases": ["lamp"]}),
        ({"tags": ["a"]}, {"op": "append", "field": "tags", "value": "a"}, {"tags": ["a"]}),
        ({"tags": ["a"]}, {"op": "append", "field": "tags", "value": "b"}, {"tags": ["a", "b"]}),
        ({}, {"op": "append", "field": "profile.pets", "value": "cat"}, {"profile": {"pets": ["cat"]}}),
        ({"name": "Ada"}, {"op": "remove", "field": "name"}, {}),
        ({}, {"op": "remove", "field": "name"}, {}),
        ({}, {"op": "remove", "field": "profile.a.b"}, {}),
        ({"name": "Ada"}, {"op": "remove", "field": "name.first"}, {"name": "Ada"}),
        ({"name": "Ada"}, {"op": "remove", "field": "name", "value": "Bob"}, {"name": "Ada"}),
        ({"tags": ["a", "b"]}, {"op": "remove", "field": "tags", "value": "a"}, {"tags": ["b"]}),
        ({"tags": ["a", "b"]}, {"op": "remove", "field": "tags", "value": "z"}, {"tags": ["a", "b"]}),
        ({"tags": ["a", "b"]}, {"op": "remove", "field": "tags.0"}, {"tags": ["b"]}),
        ({"tags": ["a"]}, {"op": "remove", "field": "tags.7"}, {"tags": ["a"]}),
        ({}, {"op": "merge", "field": "preferences", "value": {"size": "M"}}, {"preferences": {"size": "M"}}),
        (
            {"preferences": {"size": "M", "colour": "red"}},
            {"op": "merge", "field": "preferences", "value": {"colour": None, "fit": "slim"}},
            {"preferences": {"size": "M", "fit": "slim"}},
        ),
        (
            {"profile": {"a": {"b": 1, "c": 2}}},
            {"op": "merge", "field": "profile", "value": {"a": {"b": None, "d": 3}}},
            {"profile": {"a": {"c": 2, "d": 3}}},
        ),
        (
            {"name": "Ada", "visits": 1},
            {"op": "merge", "value": {"visits": 2, "name": None, "preferences": {"size": "M"}}},
            {"visits": 2, "preferences": {"size": "M"}},
        ),
    ],
)
def test_an_operation(before: Any, operation: Any, expected: Any) -> None:
    kept = copy.deepcopy(before)
    assert after(before, operation) == expected
    assert before == kept, "the value given is not touched"


@pytest.mark.parametrize(
    ("before", "operation", "words"),
    [
        ({}, {"op": "set", "field": "age", "value": 3}, 'has no field "age"; its fields: name, nick, preferences'),
        ({}, {"op": "merge", "value": {"age": 3}}, 'has no field "age"'),
        ({}, {"op": "set", "field": "name", "value": 3}, "customer.name: must be string, got integer 3"),
        ({}, {"op": "set", "field": "name", "value": None}, "customer.name: must be string, got null"),
        ({"name": "Ada"}, {"op": "append", "field": "name", "value": "x"}, "append needs an array, and it holds"),
        ({"name": "Ada"}, {"op": "merge", "field": "name", "value": {}}, "merge needs an object, and it holds"),
        ({"name": "Ada"}, {"op": "set", "field": "name.first", "value": "x"}, "cannot step into name"),
        ({"tags": []}, {"op": "set", "field": "tags.0", "value": "x"}, "is no index of this array of 0; use append"),
        ({"tags": []}, {"op": "set", "field": "tags.first", "value": "x"}, "is no index of this array"),
        ({}, {"op": "append", "field": "tags", "value": ["a"]}, "customer.tags.0: must be string, got array"),
        (
            {"recent_purchases": list("abcde")},
            {"op": "append", "field": "recent_purchases", "value": "f"},
            "may hold at most 5 items and would have 6; remove some first",
        ),
    ],
)
def test_an_operation_that_cannot_be_applied_says_why(before: Any, operation: Any, words: str) -> None:
    assert words in refusal(before, operation)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (None, "operations: must be a list"),
        ([], "operations: must be a list with at least one"),
        ([{"op": "remove", "field": "name"}] * 101, "at most 100"),
        (["set"], "operations[0]: must be an object"),
        (
            [{"op": "remove", "field": "a"}, {"op": "upsert"}],
            "operations[1].op: must be set, append, remove, merge or increment",
        ),
        ([{"op": "set", "field": "name", "vlaue": 1}], 'operations[0]: unknown key "vlaue"'),
        ([{"op": "set", "field": "name"}], "set needs a value; to forget the field, use remove"),
        ([{"op": "append", "field": "name"}], "append needs a value"),
        ([{"op": "set", "value": 1}], "operations[0].field: must be a field or a path"),
        ([{"op": "set", "field": "", "value": 1}], "must be a field or a path"),
        ([{"op": "set", "field": "a..b", "value": 1}], "must be a field or a path"),
        ([{"op": "set", "field": 5, "value": 1}], "must be a field or a path"),
        ([{"op": "set", "field": ".".join("a" * 100), "value": 1}], "a path has at most 32 steps"),
        ([{"op": "merge", "field": "a", "value": [1]}], "merge takes an object"),
        ([{"op": "set", "field": "a", "value": 1, "block": "other"}], 'operations[0].block: must be "customer"'),
        ([{"op": "set", "field": "a", "value": 1, "expect_sha256": 5}], "must be a SHA-256 in hex"),
        ([{"op": "set", "field": "a", "value": 1, "expect_version": "1"}], "must be the block's version"),
        ([{"op": "set", "field": "a\0", "value": 1}], "NUL"),
    ],
)
def test_malformed_operations_are_refused_with_their_place(given: Any, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_operations(given, "customer")
    assert words in caught.value.message


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("a\0b", "NUL"),
        ({"a\0b": 1}, "NUL"),
        ("\ud800", "surrogate"),
        ({"\udfff": 1}, "surrogate"),
        (float("nan"), "not a JSON number"),
        ([float("inf")], "not a JSON number"),
        (10**30, "more than 64 bits"),
        (-(10**4_000), "more than 64 bits"),
        (nested(MAX_DEPTH + 1), "levels deep"),
        (nested(100_000), "levels deep"),
        ({str(number): 1 for number in range(10_001)}, "more than 10000 values"),
        ([[0] * 101] * 100, "more than 10000 values"),
        ({1: "a"}, "not a string"),
        (b"bytes", "not a JSON value"),
    ],
)
def test_a_value_that_cannot_be_kept_is_refused(value: Any, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        operations({"op": "set", "field": "profile", "value": value})
    assert words in caught.value.message
    assert len(caught.value.message) < 300


def test_a_value_of_ten_megabytes_is_told_in_a_few_words() -> None:
    assert len(refusal({}, {"op": "set", "field": "visits", "value": "x" * 10_000_000})) < 300


def test_growing_a_value_beyond_the_bound_is_refused_too() -> None:
    value = {"profile": {"items": [0] * 9_990}}
    check_value(value, "value")
    assert "more than 10000 values" in refusal(value, {"op": "set", "field": "profile.more", "value": [0] * 50})


def test_what_all_operations_leave_behind_is_what_counts() -> None:
    full = {"recent_purchases": list("abcde")}
    result = after(
        full,
        {"op": "append", "field": "recent_purchases", "value": "f"},
        {"op": "remove", "field": "recent_purchases", "value": "a"},
    )
    assert result == {"recent_purchases": list("bcdef")}


def test_a_fault_in_one_operation_leaves_nothing_of_the_others() -> None:
    value = {"name": "Ada"}
    refusal(value, {"op": "set", "field": "name", "value": "Bob"}, {"op": "set", "field": "visits", "value": "x"})
    assert value == {"name": "Ada"}


def test_fields_of_an_earlier_definition_stay() -> None:
    assert after({"old": 1}, {"op": "set", "field": "name", "value": "Ada"}) == {"old": 1, "name": "Ada"}


WORDS = st.sampled_from(["a", "b", "c", "ä", "<x>"])


class Model(RuleBasedStateMachine):
    """Runs operations beside a dictionary that says what each of them should mean."""

    def __init__(self) -> None:
        super().__init__()
        self.value: dict[str, Any] = {}
        self.model: dict[str, Any] = {}

    def do(self, allowed: bool, *given: Any) -> bool:
        before = copy.deepcopy(self.value)
        if not allowed:
            with pytest.raises(InvalidRequest):
                after(self.value, *given)
            assert self.value == before
            return False
        self.value = after(self.value, *given)
        return True

    @rule(word=WORDS)
    def set_name(self, word: str) -> None:
        self.do(True, {"op": "set", "field": "name", "value": word})
        self.model["name"] = word
        assert same(after(self.value, {"op": "set", "field": "name", "value": word}), self.value)

    @rule(number=st.integers(-3, 3) | st.booleans() | st.text(max_size=2))
    def set_visits(self, number: Any) -> None:
        fits = isinstance(number, int) and not isinstance(number, bool)
        if self.do(fits, {"op": "set", "field": "visits", "value": number}):
            self.model["visits"] = number

    @rule(word=WORDS)
    def append_purchase(self, word: str) -> None:
        items = self.model.get("recent_purchases", [])
        if self.do(len(items) < 5, {"op": "append", "field": "recent_purchases", "value": word}):
            self.model["recent_purchases"] = [*items, word]

    @rule(word=WORDS)
    def append_tag(self, word: str) -> None:
        self.do(True, {"op": "append", "field": "tags", "value": word})
        items = self.model.get("tags", [])
        self.model["tags"] = items if word in items else [*items, word]

    @rule(word=WORDS, field=st.sampled_from(["recent_purchases", "tags"]))
    def remove_item(self, word: str, field: str) -> None:
        self.do(True, {"op": "remove", "field": field, "value": word})
        if field in self.model:
            self.model[field] = [item for item in self.model[field] if item != word]

    @rule(field=st.sampled_from(["name", "visits", "recent_purchases", "tags", "preferences", "nick"]))
    def forget(self, field: str) -> None:
        self.do(True, {"op": "remove", "field": field})
        self.model.pop(field, None)
        assert same(after(self.value, {"op": "remove", "field": field}), self.value)

    @rule(key=WORDS, word=WORDS)
    def set_preference(self, key: str, word: str) -> None:
        self.do(True, {"op": "set", "field": f"preferences.{key}", "value": word})
        self.model["preferences"] = {**self.model.get("preferences", {}), key: word}

    @rule(key=WORDS)
    def forget_preference(self, key: str) -> None:
        self.do(True, {"op": "remove", "field": f"preferences.{key}"})
        self.model.get("preferences", {}).pop(key, None)

    @rule(patch=st.dictionaries(WORDS, WORDS | st.none()))
    def merge_preferences(self, patch: dict[str, str | None]) -> None:
        operation = {"op": "merge", "field": "preferences", "value": patch}
        self.do(True, operation)
        merged = {**self.model.get("preferences", {}), **patch}
        self.model["preferences"] = {key: word for key, word in merged.items() if word is not None}
        assert same(after(self.value, operation), self.value)

    @rule(key=WORDS, number=st.integers())
    def merge_what_does_not_fit(self, key: str, number: int) -> None:
        self.do(False, {"op": "merge", "field": "preferences", "value": {key: number}})

    @invariant()
    def agrees_and_fits(self) -> None:
        assert self.value == self.model
        assert CUSTOMER.problems(self.value) == []


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)

CHANGES = st.one_of(
    st.builds(lambda word: {"op": "set", "field": "name", "value": word}, WORDS),
    st.builds(lambda word: {"op": "append", "field": "tags", "value": word}, WORDS),
    st.builds(lambda key, word: {"op": "merge", "field": "preferences", "value": {key: word}}, WORDS, WORDS),
    st.just({"op": "remove", "field": "visits"}),
)


@given(CHANGES, CHANGES)
def test_operations_on_different_fields_commute(one: Any, other: Any) -> None:
    before = {"name": "Ada", "visits": 2, "tags": ["z"], "preferences": {"size": "M"}}
    if one["field"] != other["field"]:
        assert same(after(before, one, other), after(before, other, one))


@given(st.lists(CHANGES, min_size=1, max_size=6))
def test_doing_it_all_again_changes_nothing_but_order_of_overwrites(changes: list[Any]) -> None:
    once = after({}, *changes)
    assert same(after(once, *changes), once)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-3, 3).map(round) | st.floats(-3, 3) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=5,
)


def equal(one: Any, other: Any) -> bool:
    """JSON Schema's equality, spelt out."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(equal(left, right) for left, right in zip(one, other, strict=True))
    return bool(one == other)


@given(JSON, JSON)
def test_identity_is_the_equality_of_json_schema(one: Any, other: Any) -> None:
    assert (identity(one) == identity(other)) == equal(one, other)
