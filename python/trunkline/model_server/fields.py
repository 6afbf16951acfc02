"""Checked reading of a JSON body: every fault is an `InvalidField` that knows where it is; the wire words it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

T = TypeVar("T")
Path = tuple[str | int, ...]
_NAMES: dict[type, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    list: "array",
    dict: "object",
    type(None): "null",
}


@dataclass(eq=False)
class InvalidField(Exception):
    """A field is missing, of a wrong type, or of a wrong value (`expected` then is the whole sentence)."""

    path: Path
    problem: Literal["missing", "type", "value"]
    expected: str
    got: str = ""


class Fields:
    """A JSON object and where in the request it is."""

    def __init__(self, value: Mapping[str, Any], path: Path = ()) -> None:
        self.value = value
        self.path = path

    def require(self, name: str, kind: type[T]) -> T:
        """Return the field, which must be there and of that JSON type."""
        if self.value.get(name) is None:
            raise InvalidField((*self.path, name), "missing", json_name(kind))
        return checked(self.value[name], kind, (*self.path, name))

    def get(self, name: str, kind: type[T]) -> T | None:
        """Return the field, or None if it is absent or null."""
        value = self.value.get(name)
        return None if value is None else checked(value, kind, (*self.path, name))

    def objects(self, name: str) -> Iterator[Fields]:
        """Return the objects of an array field; nothing if it is absent."""
        for index, item in enumerate(self.get(name, list) or ()):
            path = (*self.path, name, index)
            yield Fields(checked(item, dict, path), path)

    def object(self, name: str) -> Fields:
        """Return the object in a field; an empty one if it is absent."""
        return Fields(self.get(name, dict) or {}, (*self.path, name))

    def refuse(self, name: str, sentence: str) -> InvalidField:
        """Return the error that says a field's value will not do."""
        return InvalidField((*self.path, name), "value", sentence, str(self.value.get(name)))


def checked(value: object, kind: type[T], path: Path) -> T:
    """Return the value, if it is of that JSON type. A boolean is no number; a whole number is a number."""
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return value  # type: ignore[return-value]  # an int will do wherever a float is wanted
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise InvalidField(path, "type", json_name(kind), json_name(type(value)))
    return value


def json_name(kind: type) -> str:
    """Say what JSON calls a type."""
    return _NAMES.get(kind, kind.__name__)
