"""What is wrong with a value, in words that a person or a model can act on: the place, the fault, what is allowed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any, Final

from jsonschema import ValidationError
from jsonschema.protocols import Validator

from trunkline.memory.values import json_type, shown


def _type(expected: Any, value: Any) -> str:
    wanted = " or ".join(expected) if isinstance(expected, list) else expected
    return f"must be {wanted}, got {'null' if value is None else f'{json_type(value)} {shown(value)}'}"


# Keyword → (what the schema says, the value) → the fault.
_FAULTS: Final[dict[str, Callable[[Any, Any], str]]] = {
    "type": _type,
    "enum": lambda expected, value: f"must be one of {shown(expected, 400)}, got {shown(value)}",
    "const": lambda expected, value: f"must be {shown(expected, 400)}, got {shown(value)}",
    "minItems": lambda expected, value: f"must hold at least {expected} items and would have {len(value)}",
    "maxItems": lambda expected, value: (
        f"may hold at most {expected} items and would have {len(value)}; remove some first"
    ),
    "uniqueItems": lambda _, __: "the items must all differ; one of them is there twice",
    "minLength": lambda expected, value: f"must be at least {expected} characters long and has {len(value)}",
    "maxLength": lambda expected, value: f"may be at most {expected} characters long and has {len(value)}; shorten it",
    "pattern": lambda expected, value: f"must match the regular expression {expected}, got {shown(value)}",
    "format": lambda expected, value: f"must be a valid {expected}, got {shown(value)}",
    "minimum": lambda expected, value: f"must be at least {expected}, got {shown(value)}",
    "maximum": lambda expected, value: f"must be at most {expected}, got {shown(value)}",
    "exclusiveMinimum": lambda expected, value: f"must be more than {expected}, got {shown(value)}",
    "exclusiveMaximum": lambda expected, value: f"must be less than {expected}, got {shown(value)}",
    "multipleOf": lambda expected, value: f"must be a multiple of {expected}, got {shown(value)}",
    "required": lambda expected, value: f"needs {', '.join(name for name in expected if name not in value)} too",
}


def problems(validator: Validator, value: Any, block: str, limit: int = 3) -> list[str]:
    """Return the first `limit` faults of a value, each beginning with its place (`customer.preferences.colour: …`)."""
    return [_words(error, block) for error in islice(validator.iter_errors(value), limit)]


def _words(error: ValidationError, block: str) -> str:
    place = ".".join([block, *(str(step) for step in error.absolute_path)])
    keyword, expected, value = str(error.validator), error.validator_value, error.instance
    if keyword in _FAULTS:
        return f"{place}: {_FAULTS[keyword](expected, value)}"
    if keyword == "additionalProperties" and isinstance(error.schema, dict) and isinstance(value, dict):
        allowed = list(error.schema.get("properties", {}))
        surplus = ", ".join(shown(name) for name in [name for name in value if name not in allowed][:5])
        return f"{place}: has no {surplus}; allowed: {', '.join(allowed[:50]) or 'nothing'}"
    if keyword in ("anyOf", "oneOf") and isinstance(expected, list):
        types = [option.get("type") for option in expected if isinstance(option, dict)]
        if (
            len(types) == len(expected)
            and json_type(value) not in types
            and all(isinstance(name, str) for name in types)
        ):
            return f"{place}: {_type(types, value)}"
    return f"{place}: does not fit the schema's {keyword}: {shown(expected, 300)}, got {shown(value)}"
