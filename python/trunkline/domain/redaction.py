"""Redaction: what must not be stored becomes a mark in the text, such as `[email]`. The detectors are the gateway's."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any, Final

from trunkline.errors import InvalidRequest

Wanted = str | Mapping[str, str]
"""A detector's name, or `{name, pattern}`."""

_OF_THE_LOG: Final = frozenset(
    {"type", "name", "stop_reason", "tool_use_id", "custom_tool_use_id", "data", "signature"}
)
"""Members of events that say nothing, or no text."""


class Redactor:
    """Puts marks in place of what is found. Equal lists are compiled once: see `redactor`."""

    def __init__(self, spec: str) -> None:
        from trunkline._core import Redactor as Compiled  # noqa: PLC0415 - clients know this module and need no extension

        self._core = Compiled(spec)

    def text(self, text: str) -> str:
        """Return a text with marks in place of what is found. Raises InvalidRequest for one that is no Unicode."""
        try:
            return self._core.text(text)
        except UnicodeEncodeError as error:
            raise InvalidRequest("A text has half a surrogate pair, which cannot be stored.") from error

    def value(self, value: Any) -> Any:
        """Return JSON with all texts, names of members, and numbers that are found as a whole, so treated."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, bool) or value is None:
            return value
        if isinstance(value, int | float):
            redacted = self.text(shown := str(value))
            return redacted if redacted != shown and redacted[0] + redacted[-1] == "[]" else value
        if isinstance(value, Mapping):
            return {self.text(str(name)): self.value(member) for name, member in value.items()}
        return [self.value(item) for item in value]

    def event(self, payload: Any) -> Any:
        """Return what an event says: names of members are the log's own, but for those of a tool's input."""
        if isinstance(payload, Mapping):
            return {
                name: member if name in _OF_THE_LOG else self.value(member) if name == "input" else self.event(member)
                for name, member in payload.items()
            }
        if isinstance(payload, list | tuple):
            return self._content(payload)
        return self.value(payload)

    def _content(self, parts: Sequence[Any]) -> list[Any]:
        """Treat a list. Texts that stand together are read as one, and are one where something is found across them."""
        kept: list[Any] = []
        for are_texts, grouped in groupby(parts, key=_is_text):
            run = list(grouped)
            redacted = [self.event(part) for part in run]
            if are_texts and len(run) > 1:
                whole = self.text("".join(part["text"] for part in run))
                if whole != "".join(part["text"] for part in redacted):
                    redacted = [{"type": "text", "text": whole}]
            kept += redacted
        return kept

    def refuse_in(self, text: str, where: str) -> None:
        """Raise InvalidRequest for a name that would have to be redacted, and then named something else."""
        if self.text(text) != text:
            raise InvalidRequest(
                f"{where} holds what may not be stored here ({self.text(text)}); choose another.", param=where
            )


def _is_text(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)


def redactor(wanted: Iterable[Wanted] | None) -> Redactor | None:
    """Return what redacts by this list; None where there is nothing to look for. Raises ValueError: what is wrong."""
    found = list(wanted or ())
    return _compiled(json.dumps(found, sort_keys=True)) if found else None


@lru_cache(maxsize=256)
def _compiled(spec: str) -> Redactor:
    return Redactor(spec)
