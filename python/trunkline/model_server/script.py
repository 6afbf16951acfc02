"""The script: a YAML file of rules, tried in order, each saying when it answers and with what."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from trunkline.model_server.faults import NO_FAULTS, Faults
from trunkline.model_server.prompt import Answer, Prompt, ToolCall
from trunkline.model_server.wire import ModelServerError

_PLACEHOLDER = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_WORDS = ("user", "tool_result", "model")


class ScriptError(ModelServerError):
    """The script cannot be used; the message names the file, the rule and what to do."""


def _pattern(value: object) -> re.Pattern[str]:
    if not isinstance(value, str):
        raise ValueError("write a regular expression as text, in quotes")  # noqa: TRY004  # pydantic wants ValueError
    try:
        return re.compile(value, re.IGNORECASE)
    except re.error as fault:
        raise ValueError(f"{value!r} is no regular expression ({fault}); escape special characters with \\") from fault


Pattern = Annotated[re.Pattern[str], BeforeValidator(_pattern)]
_STRICT = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class When(BaseModel):
    """Conditions, all of which must hold. Patterns are searched for anywhere and ignore case."""

    model_config = _STRICT

    user: Pattern | None = None
    system: Pattern | None = None
    recall: Pattern | None = None
    tool_result: Pattern | None = None  # on a result of the current turn
    model: Pattern | None = None
    last_role: Literal["user", "assistant", "tool", "system"] | None = None
    turn: int | None = Field(default=None, ge=1)
    has_tool: str | None = None


class ScriptedCall(BaseModel):
    """A tool call to make."""

    model_config = _STRICT

    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class ScriptedUsage(BaseModel):
    """Token counts to report instead of the real ones. `input_tokens` is the whole prompt."""

    model_config = _STRICT

    input_tokens: int | None = Field(default=None, ge=0)
    output_tokens: int | None = Field(default=None, ge=0)
    cached_tokens: int | None = Field(default=None, ge=0)
    cache_write_tokens: int | None = Field(default=None, ge=0)


class Rule(BaseModel):
    """One rule; without `reply` and `tool_calls` the persona answers, with the rule's usage and faults."""

    model_config = _STRICT

    name: str | None = None
    when: When = When()
    reply: str | None = None
    tool_calls: tuple[ScriptedCall, ...] = ()
    usage: ScriptedUsage | None = None
    faults: Faults = NO_FAULTS
    times: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _placeholders_are_known(self) -> Rule:
        known = set(_WORDS)
        for pattern in _patterns(self.when):
            known |= set(pattern.groupindex) | {str(number) for number in range(pattern.groups + 1)}
        for call in (self.reply or "", *(call.arguments for call in self.tool_calls)):
            for name in _placeholders(call):
                if name not in known:
                    wanted = ", ".join("{{" + word + "}}" for word in sorted(known))
                    raise ValueError(f"{{{{{name}}}}} is no group of a pattern in `when`; known here are {wanted}")
        return self

    def matches(self, prompt: Prompt) -> dict[str, str] | None:
        """Return the values for placeholders, or None if a condition does not hold."""
        when = self.when
        if when.last_role is not None and when.last_role != prompt.last_role:
            return None
        if self._calls_again(prompt):
            return None
        if when.turn is not None and when.turn != prompt.turn:
            return None
        if when.has_tool is not None and when.has_tool not in prompt.tool_names:
            return None
        texts = _texts(prompt)
        values: dict[str, str] = {}
        for name, text in texts.items():
            pattern: re.Pattern[str] | None = getattr(when, name)
            if pattern is None:
                continue
            match = pattern.search(text)
            if match is None or (name == "tool_result" and not prompt.results):
                return None
            numbered = {str(number): match[number] or "" for number in range(pattern.groups + 1)}
            named = {key: value or "" for key, value in match.groupdict().items()}
            values = {**numbered, **named, **values}  # the first pattern's groups win
        return {**{word: texts[word] for word in _WORDS}, **values}

    def _calls_again(self, prompt: Prompt) -> bool:
        """Return a tool has answered and nothing in the rule speaks of that: to call again would go round for ever."""
        waits = self.when.tool_result is None and self.when.last_role is None
        return bool(self.tool_calls) and waits and prompt.last_role == "tool"

    def answer(self, values: Mapping[str, str]) -> Answer | None:
        """Return the scripted answer with its placeholders filled, or None if the persona is to answer."""
        if self.reply is None and not self.tool_calls:
            return None
        calls = tuple(ToolCall(call.name, _filled(call.arguments, values)) for call in self.tool_calls)
        return Answer(_filled(self.reply or "", values), calls, "tool_calls" if calls else "end")


class Script(BaseModel):
    """The whole file."""

    model_config = _STRICT

    models: tuple[str, ...] = ("scripted", "text-embedding-3-small")  # what GET /v1/models lists; any name is served
    faults: Faults = NO_FAULTS  # for every request
    rules: tuple[Rule, ...] = ()


def load(path: Path) -> Script:
    """Read a script; raises `ScriptError`."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as fault:
        reason = fault.strerror or str(fault)
        raise ScriptError(f"{path}: cannot be read ({reason}); check the path given to --script") from fault
    except UnicodeDecodeError as fault:
        raise ScriptError(f"{path}: is not UTF-8 text; save it as UTF-8") from fault
    except yaml.YAMLError as fault:
        mark = getattr(fault, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = getattr(fault, "problem", None) or "cannot be parsed"
        raise ScriptError(f"{path}: {place}not valid YAML: {problem}; check indentation and quotes there") from fault
    if not isinstance(data, dict):
        raise ScriptError(f"{path}: a script is a mapping; start it with `rules:` and a list of rules under it")
    try:
        return Script.model_validate(data)
    except ValidationError as fault:
        raise ScriptError(f"{path}: {_explained(fault, data)}") from fault


def _explained(fault: ValidationError, data: Mapping[str, Any]) -> str:
    first = fault.errors()[0]
    place = list(first["loc"])
    where = ""
    owner: type[BaseModel] = Script
    if len(place) > 1 and place[0] == "rules" and isinstance(place[1], int):
        where = f"rule {place[1] + 1}"
        rule = data["rules"][place[1]]
        if isinstance(rule, dict) and rule.get("name"):
            where += f" ({rule['name']})"
        where += ": "
        place = place[2:]
        owners: dict[str, type[BaseModel]] = {"when": When, "usage": ScriptedUsage, "faults": Faults}
        owner = owners.get(str(place[0]), Rule) if place else Rule
        if len(place) > 1 and place[0] == "tool_calls" and len(place) > 2:
            owner = ScriptedCall
        elif len(place) == 1:
            owner = Rule
    name = ".".join(map(str, place))
    if first["type"] == "extra_forbidden":
        return f"{where}unknown key `{name}`; known here are {', '.join(owner.model_fields)}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}{f'`{name}`: ' if name else ''}{message[0].lower() + message[1:]}" + _remedy(first["type"], name)


def _remedy(kind: str, name: str) -> str:
    if kind == "missing":
        return f"; add `{name.rsplit('.', 1)[-1]}`"
    return "" if kind == "value_error" else "; correct the value"


def _patterns(when: When) -> list[re.Pattern[str]]:
    return [value for value in (getattr(when, name) for name in When.model_fields) if isinstance(value, re.Pattern)]


def _texts(prompt: Prompt) -> dict[str, str]:
    """Say what each pattern is searched in, in the order in which their groups win."""
    return {
        "user": prompt.newest_user,
        "tool_result": "\n".join(result.text for _, result in prompt.results),
        "recall": "\n".join(text for name, text in prompt.sections if name == "recall"),
        "system": prompt.system,
        "model": prompt.model,
    }


def _placeholders(value: object) -> list[str]:
    if isinstance(value, str):
        return _PLACEHOLDER.findall(value)
    if isinstance(value, dict):
        return [name for item in value.values() for name in _placeholders(item)]
    if isinstance(value, (list, tuple)):
        return [name for item in value for name in _placeholders(item)]
    return []


def _filled(value: Any, values: Mapping[str, str]) -> Any:
    """Return the value with `{{name}}` replaced in every string."""
    if isinstance(value, str):
        return _PLACEHOLDER.sub(lambda match: values.get(match[1], ""), value)
    if isinstance(value, dict):
        return {key: _filled(item, values) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, values) for item in value]
    return value
