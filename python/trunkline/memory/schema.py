"""The JSON Schema that fields may be declared with, made safe to compile and to run.

It is Draft 2020-12 with these bounds, so that neither a definition nor a value can exhaust the process:
- at most MAX_NODES sub-schemas and MAX_DEPTH levels after references are put in place of `$ref`; a reference points
  into the block's own `$defs` and must not reach itself (nothing is ever fetched);
- `pattern` is matched by Rust's regex engine (the one inside pydantic), linear in the text and bounded in size; it has
  neither look-around nor back-references, and such a pattern is refused when the agent is written;
- `patternProperties`, `unevaluated…`, `$dynamicRef` and the rest of what KEYWORDS does not list are refused by name.
`format` is checked for date, date-time, email, ipv4, ipv6 and uuid; any other format is a note to the reader.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final
from uuid import UUID

from jsonschema import Draft202012Validator, FormatChecker, SchemaError, ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import extend
from pydantic_core import SchemaError as PatternError
from pydantic_core import SchemaValidator, core_schema
from pydantic_core import ValidationError as Mismatch

from trunkline.errors import InvalidRequest
from trunkline.memory.values import check_value, identity, shown

MAX_DEPTH: Final = 16
MAX_NODES: Final = 1_000

KEYWORDS: Final = frozenset(
    (
        "type",
        "enum",
        "const",
        "properties",
        "required",
        "additionalProperties",
        "propertyNames",
        "minProperties",
        "maxProperties",
        "dependentRequired",
        "items",
        "prefixItems",
        "contains",
        "minContains",
        "maxContains",
        "minItems",
        "maxItems",
        "uniqueItems",
        "minLength",
        "maxLength",
        "pattern",
        "format",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "multipleOf",
        "allOf",
        "anyOf",
        "oneOf",
        "not",
        "if",
        "then",
        "else",
        "title",
        "description",
        "default",
        "examples",
        "deprecated",
        "readOnly",
        "writeOnly",
        "$comment",
    )
)
_ONE = ("additionalProperties", "propertyNames", "items", "contains", "not", "if", "then", "else")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")


def inline(schema: Any, definitions: Mapping[str, Any], where: str) -> Any:
    """Return the schema with every `$ref` replaced by what it points to.

    Raises InvalidRequest, with the place, for an unknown keyword or definition, a reference that leaves the block or
    reaches itself, and a schema that is too deep or too large.
    """
    return _Inliner(definitions).schema(schema, where, 1, ())


class _Inliner:
    """One walk over a field's schema, counting what it makes."""

    def __init__(self, definitions: Mapping[str, Any]) -> None:
        self._definitions = definitions
        self._nodes = 0

    def schema(self, schema: Any, where: str, depth: int, inside: tuple[str, ...]) -> Any:
        self._nodes += 1
        if depth > MAX_DEPTH:
            raise _refused(where, f"nested more than {MAX_DEPTH} schemas deep; flatten it")
        if self._nodes > MAX_NODES:
            raise _refused(where, f"more than {MAX_NODES} sub-schemas once references are put in; simplify it")
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise _refused(where, f"expected a JSON Schema (an object such as {{type: string}}), got {shown(schema)}")
        if "$ref" in schema:
            return self._reference(schema, where, depth, inside)
        for key, value in schema.items():
            if key == "required" and isinstance(value, bool):
                raise _refused(where, "required: true is for a field itself; inside one, list names: required: [a, b]")
            if key not in KEYWORDS and key != "discriminator":
                raise _refused(where, f"unknown keyword {shown(key)}; allowed: {', '.join(sorted(KEYWORDS))}")
        return {
            key: self._keyword(key, value, f"{where}.{key}", depth, inside)
            for key, value in schema.items()
            if key != "discriminator"  # pydantic's hint to OpenAPI tools; the alternatives say it all
        }

    def _keyword(self, key: str, value: Any, where: str, depth: int, inside: tuple[str, ...]) -> Any:
        if key in _ONE:
            return self.schema(value, where, depth + 1, inside)
        if key in _LISTS and isinstance(value, list):
            return [self.schema(item, f"{where}[{n}]", depth + 1, inside) for n, item in enumerate(value)]
        if key == "properties" and isinstance(value, dict):
            return {name: self.schema(item, f"{where}.{name}", depth + 1, inside) for name, item in value.items()}
        if key == "pattern":
            compiled_pattern(value, where)
        return value

    def _reference(self, schema: dict[str, Any], where: str, depth: int, inside: tuple[str, ...]) -> Any:
        reference = schema["$ref"]
        if not isinstance(reference, str) or not reference.startswith("#/$defs/"):
            raise _refused(where, f"$ref {shown(reference)} leaves the block; only '#/$defs/NAME' may be referred to")
        name = reference.removeprefix("#/$defs/")
        if name in inside:
            raise _refused(where, f"$ref {reference!r} reaches itself; recursive schemas are not allowed")
        if name not in self._definitions:
            names = ", ".join(self._definitions) or "nothing"
            raise _refused(where, f"$ref {reference!r} points to nothing; $defs has: {names}")
        target = self.schema(self._definitions[name], f"{where}.$defs.{name}", depth + 1, (*inside, name))
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        if not beside:
            return target
        if not isinstance(target, dict):
            return {"allOf": [target], **self.schema(beside, where, depth, inside)}
        shared = target.keys() & beside.keys() - {"title", "description", "default", "examples"}
        extra = self.schema(beside, where, depth, inside)
        return {"allOf": [target], **extra} if shared else target | extra


def _refused(where: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"{where}: {why}.", param=where, code="invalid_schema")


def compiled_pattern(pattern: Any, where: str) -> SchemaValidator:
    """Compile a `pattern` with Rust's linear-time engine. Raises InvalidRequest with the engine's reason."""
    if not isinstance(pattern, str):
        raise _refused(where, f"expected a regular expression as text, got {shown(pattern)}")
    try:
        return SchemaValidator(core_schema.str_schema(pattern=pattern))
    except PatternError as error:
        reason = str(error).strip().splitlines()[-1].removeprefix("error: ").strip()
        raise _refused(where, f"the regular expression {shown(pattern)} cannot be used: {reason}") from None


def compiled(schema: dict[str, Any], where: str) -> Validator:
    """Compile an inlined schema for validation, once. Raises InvalidRequest when it is not valid Draft 2020-12."""
    check_value(schema, where)
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        steps = [str(step) for step in error.absolute_path]
        if steps[:1] == ["properties"]:  # the block's own, which its author wrote as `fields`
            steps[0] = "fields"
        place = ".".join([where, *steps])
        raise _refused(place, f"not valid JSON Schema: {error.message[:300]}") from None
    patterns: dict[str, SchemaValidator] = {}

    def pattern(_: Any, expected: str, instance: Any, __: Any) -> Iterator[ValidationError]:
        if isinstance(instance, str):
            if expected not in patterns:
                patterns[expected] = compiled_pattern(expected, where)
            try:
                patterns[expected].validate_python(instance)
            except Mismatch:
                yield ValidationError(f"{shown(instance)} does not match the pattern {expected}")

    def unique_items(_: Any, wanted: bool, instance: Any, __: Any) -> Iterator[ValidationError]:
        if wanted and isinstance(instance, list) and len({identity(item) for item in instance}) < len(instance):
            yield ValidationError("the items are not unique")

    strict: type[Validator] = extend(  # type: ignore[no-untyped-call]
        Draft202012Validator, {"pattern": pattern, "uniqueItems": unique_items}
    )
    return strict(schema, format_checker=_formats())


def _formats() -> FormatChecker:
    def check(parse: Callable[[str], Any]) -> Callable[[object], bool]:
        return lambda instance: not isinstance(instance, str) or parse(instance) is not None

    def email(text: str) -> str:
        name, at, host = text.rpartition("@")
        if not name or not at or not host or any(character.isspace() for character in text):
            raise ValueError(text)
        return text

    def moment(text: str) -> datetime:
        if len(text) < len("2026-01-01T00:00:00Z") or datetime.fromisoformat(text).tzinfo is None:
            raise ValueError(text)
        return datetime.fromisoformat(text)

    checker = FormatChecker(formats=())
    parsers: dict[str, Callable[[str], Any]] = {
        "date": date.fromisoformat,
        "date-time": moment,
        "email": email,
        "ipv4": IPv4Address,
        "ipv6": IPv6Address,
        "uuid": UUID,
    }
    for name, parse in parsers.items():
        checker.checks(name, raises=ValueError)(check(parse))
    return checker
