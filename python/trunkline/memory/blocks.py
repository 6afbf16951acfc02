"""What an agent wants to remember: `memory` of an agent in YAML or JSON, or block classes, in one form."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, ClassVar, Final, Literal, get_args

from jsonschema.protocols import Validator
from pydantic import BaseModel

from trunkline.domain.memory import SCOPES, AgentBlock, Scope
from trunkline.domain.retention import Retention
from trunkline.errors import InvalidRequest
from trunkline.memory import schema as json_schema
from trunkline.memory.consolidation import Consolidation, parse_consolidation
from trunkline.memory.problems import problems
from trunkline.memory.redaction import Redaction, parse_redaction
from trunkline.memory.rules import (
    FIELD_KEYS,
    Access,
    FieldRule,
    Step,
    parse_access,
    parse_priority,
    parse_retention,
    parse_rule,
    parse_sharing,
    parse_steps,
)
from trunkline.memory.values import canonical, check_value, shown

MAX_BLOCKS: Final = 50
MAX_FIELDS: Final = 200
MAX_SCHEMA_BYTES: Final = 65_536
MAX_PROMPT_CACHE_SECONDS: Final = 86_400  # what is redacted is looked for in sessions called within this
MIN_CONTEXT_TOKENS: Final = 100
MAX_CONTEXT_TOKENS: Final = 10_000_000
MAX_KEEP_TURNS: Final = 1_000
MAX_STORES: Final = 10
MAX_INSTRUCTIONS: Final = 4_096

Backend = Literal["postgres", "pgvector"]
OnUnavailable = Literal["continue", "fail"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}", re.ASCII)
_MEMORY_KEYS: Final = (
    "type",
    "backends",
    "context_engine",
    "refresh_on_every_turn",
    "token_budget",
    "prompt_cache",
    "context",
    "on_unavailable",
    "tools",
    "recall",
    "recall_tokens",
    "retention",
    "redact",
    "stores",
    "consolidate",
    "blocks",
)
_BLOCK_KEYS: Final = (
    "scope",
    "description",
    "fields",
    "required",
    "$defs",
    "priority",
    "token_budget",
    "shared_with",
    "migrate",
)
_ORDINARY: Final = FieldRule()


@dataclass(frozen=True, slots=True)
class PromptCache:
    """How a session's prompts are kept for the provider's cache.

    What they begin with is rendered anew once the session was idle for `ttl_seconds`. `cache_control`: breakpoints are
    placed in Anthropic's wire where the client has placed none.
    """

    ttl_seconds: int = 300
    cache_control: bool = True


@dataclass(frozen=True, slots=True)
class ContextBudget:
    """How much of a session's conversation stands in its prompts.

    Past `budget_tokens` its oldest turns leave, until half of that is left, but never the newest `keep_turns`. With a
    `summary_model`, a model configured under this name sums up what leaves.
    """

    budget_tokens: int
    keep_turns: int = 2
    summary_model: str | None = None


@dataclass(frozen=True)
class BlockDefinition:
    """A named set of typed fields. `schema` is a JSON Schema object without `$ref`.

    Required means that the agent is told while the field is unknown; a write may leave it so. `token_budget` bounds the
    block's text, None: not; where all blocks do not fit the agent's, those of a higher `priority` are kept.
    """

    name: str
    scope: Scope
    description: str
    schema: dict[str, Any]
    rules: Mapping[str, FieldRule] = field(default_factory=dict)
    priority: int = 0
    token_budget: int | None = None
    shared_with: Mapping[str, Access] = field(default_factory=dict)
    migrate: tuple[Step, ...] = ()

    def rule(self, name: str) -> FieldRule:
        """Return how the values of a field live."""
        return self.rules.get(name, _ORDINARY)

    @property
    def fields(self) -> dict[str, Any]:
        """The JSON Schema of each field by its name, as declared."""
        fields: dict[str, Any] = self.schema["properties"]
        return fields

    @property
    def required(self) -> tuple[str, ...]:
        """The fields that the agent should come to know."""
        return tuple(self.schema.get("required", ()))

    @cached_property
    def validator(self) -> Validator:
        """The schema without its `required`, compiled once. Raises InvalidRequest if it is not valid."""
        asked = {key: value for key, value in self.schema.items() if key != "required"}
        return json_schema.compiled(asked, f"memory.blocks.{self.name}")

    def problems(self, value: Mapping[str, Any]) -> list[str]:
        """Return what is wrong with a value of this block, in words; an empty list when it fits.

        Fields that the schema does not declare are passed over: they may be left from an earlier version of the agent.
        """
        declared = {name: item for name, item in value.items() if name in self.fields}
        return problems(self.validator, declared, self.name)

    def to_json(self) -> dict[str, Any]:
        """Return the definition as it stands under `memory.blocks.NAME` of an agent."""
        fields = {
            name: {**declared, **self.rules[name].to_json()} if name in self.rules else declared
            for name, declared in self.fields.items()
        }
        return {
            "scope": self.scope,
            "description": self.description,
            "fields": fields,
            "required": list(self.required),
            "priority": self.priority,
            "token_budget": self.token_budget,
            "shared_with": dict(self.shared_with),
            "migrate": [step.to_json() for step in self.migrate],
        }

    def options(self) -> dict[str, Any]:
        """Return what is stored beside the schema for `stored_block`."""
        return {
            "rules": {name: rule.to_json() for name, rule in self.rules.items()},
            "priority": self.priority,
            "token_budget": self.token_budget,
            "shared_with": dict(self.shared_with),
        }


@dataclass(frozen=True)
class BorrowedBlock:
    """A block of another agent, the `owner` by name, which shares it; the owner declares what it is."""

    name: str
    owner: str
    access: Access


@dataclass(frozen=True, slots=True)
class SharedStore:
    """A memory store that all sessions of the agent have, by its wire id; `instructions` tell what it is for."""

    store: str
    access: Access
    instructions: str | None


@dataclass(frozen=True)
class MemoryDefinition:
    """An agent's memory as declared, defaults filled in. `blocks` are in the order of the prompt.

    `token_budget` and `recall_tokens` are in tokens; `recall_tokens` is 0 when the agent does not recall. Without a
    `prompt_cache`, blocks are rendered anew on every call; without a `context`, prompts hold the whole conversation.
    `retention` and `redaction` are of what is said to the agent; `consolidation` is None where it is off.
    """

    enabled: bool = True
    backends: tuple[Backend, ...] = ("postgres", "pgvector")
    refresh: bool = True
    token_budget: int = 2000
    prompt_cache: PromptCache | None = PromptCache()
    context: ContextBudget | None = None
    recall_tokens: int = 500
    on_unavailable: OnUnavailable = "continue"
    tools: bool = True
    blocks: tuple[BlockDefinition, ...] = field(default=())
    borrowed: tuple[BorrowedBlock, ...] = field(default=())
    retention: Retention = field(default_factory=Retention)
    redaction: Redaction = field(default_factory=Redaction)
    stores: tuple[SharedStore, ...] = ()
    consolidation: Consolidation | None = None

    def block(self, name: str) -> BlockDefinition | None:
        """Return the block of this name, or None."""
        return next((block for block in self.blocks if block.name == name), None)


class Block(BaseModel):
    """Base of blocks written as classes: `class Customer(Block, scope="user")`.

    Fields without a default are required. The block's name is the class's in snake case unless `name=` says otherwise;
    its description is the docstring. `options` are the block's other keys, such as `priority` and `token_budget`; those
    of a field go into `Field(json_schema_extra={"stale_after": "30d"})`.
    """

    __block_scope__: ClassVar[Scope] = "user"
    __block_name__: ClassVar[str] = "block"
    __block_options__: ClassVar[Mapping[str, Any]] = {}

    def __init_subclass__(
        cls,
        *,
        scope: Scope = "user",
        name: str | None = None,
        options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init_subclass__(**kwargs)
        if scope not in SCOPES:
            raise TypeError(f"{cls.__name__}: scope must be one of {', '.join(SCOPES)}, not {scope!r}")
        cls.__block_scope__ = scope
        cls.__block_options__ = dict(options or {})
        cls.__block_name__ = name or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()

    @classmethod
    def definition(cls) -> BlockDefinition:
        """Return the same form that YAML makes. Raises InvalidRequest for a field that schemas here cannot express."""
        given = cls.model_json_schema()
        properties = given.get("properties", {})
        return parse_block(
            cls.__block_name__,
            {
                **cls.__block_options__,
                "scope": cls.__block_scope__,
                "description": (cls.__doc__ or "").strip() if cls.__doc__ != Block.__doc__ else "",
                "fields": {
                    name: {key: value for key, value in declared.items() if key != "title"}
                    for name, declared in properties.items()
                },
                "required": given.get("required", []),
                "$defs": given.get("$defs", {}),
            },
            f"memory.blocks.{cls.__block_name__}",
        )


def parse_memory(definition: Any, where: str = "memory") -> MemoryDefinition:
    """Read the `memory` of an agent; None is an agent without memory.

    `blocks` is a mapping from name to definition, or a list of block classes. Raises InvalidRequest with the path of
    what is wrong (`memory.blocks.customer.scope`) and what is allowed.
    """
    if definition is None:
        return MemoryDefinition(enabled=False, recall_tokens=0, tools=False, prompt_cache=None)
    given = _mapping(definition, where)
    if isinstance(given.get("blocks"), list | tuple):
        given = {**given, "blocks": _from_classes(given["blocks"], f"{where}.blocks")}
    check_value(dict(given), where)
    _known_keys(given, _MEMORY_KEYS, where)
    _one_of(given.get("type", "session_persistent"), ("session_persistent",), f"{where}.type")
    _one_of(given.get("context_engine", "structured"), ("structured",), f"{where}.context_engine")
    backends = given.get("backends", ["postgres", "pgvector"])
    if not isinstance(backends, list) or "postgres" not in backends:
        raise _invalid(f"{where}.backends", f"must be a list with postgres in it, got {shown(backends)}")
    for number, backend in enumerate(backends):
        _one_of(backend, get_args(Backend), f"{where}.backends[{number}]")
    recall = _boolean(given, "recall", "pgvector" in backends, where)
    recall_tokens = _integer(given, "recall_tokens", 500, where)
    declared = _mapping(given.get("blocks") or {}, f"{where}.blocks")
    if len(declared) > MAX_BLOCKS:
        raise _invalid(f"{where}.blocks", f"has {len(declared)} blocks; at most {MAX_BLOCKS} are allowed")
    blocks, borrowed = [], []
    for name, block in declared.items():
        if isinstance(block, dict) and "from" in block:
            borrowed.append(_borrowed(name, block, f"{where}.blocks.{name}"))
        else:
            blocks.append(parse_block(name, block, f"{where}.blocks.{name}"))
    on_unavailable = _one_of(
        given.get("on_unavailable", "continue"), get_args(OnUnavailable), f"{where}.on_unavailable"
    )
    return MemoryDefinition(
        backends=tuple(backends),
        refresh=_boolean(given, "refresh_on_every_turn", True, where),
        token_budget=_integer(given, "token_budget", 2000, where),
        prompt_cache=_prompt_cache(given.get("prompt_cache", True), f"{where}.prompt_cache"),
        context=_context(given.get("context"), f"{where}.context"),
        recall_tokens=recall_tokens if recall else 0,
        on_unavailable="fail" if on_unavailable == "fail" else "continue",
        tools=_boolean(given, "tools", True, where),
        blocks=tuple(sorted(blocks, key=lambda block: SCOPES.index(block.scope))),
        borrowed=tuple(borrowed),
        retention=parse_retention(given.get("retention") or {}, f"{where}.retention"),
        redaction=parse_redaction(given.get("redact") or [], f"{where}.redact"),
        stores=_stores(given.get("stores") or [], f"{where}.stores"),
        consolidation=parse_consolidation(given.get("consolidate"), f"{where}.consolidate"),
    )


def _stores(given: Any, where: str) -> tuple[SharedStore, ...]:
    if not isinstance(given, list) or len(given) > MAX_STORES:
        raise _invalid(
            where, f"must be a list of at most {MAX_STORES} {{store, access, instructions}}, got {shown(given)}"
        )
    found: list[SharedStore] = []
    for number, one in enumerate(given):
        place = f"{where}[{number}]"
        wanted = _mapping(one, place)
        _known_keys(wanted, ("store", "access", "instructions"), place)
        store, instructions = wanted.get("store"), wanted.get("instructions")
        if not isinstance(store, str) or not store.startswith("memstore_"):
            raise _invalid(f"{place}.store", f"must be the id of a memory store (memstore_…), got {shown(store)}")
        if instructions is not None and not (isinstance(instructions, str) and len(instructions) <= MAX_INSTRUCTIONS):
            raise _invalid(f"{place}.instructions", f"must be a text of at most {MAX_INSTRUCTIONS} characters")
        if any(other.store == store for other in found):
            raise _invalid(f"{place}.store", f"{store} is attached already; an agent has it once")
        found.append(
            SharedStore(store, parse_access(wanted.get("access", "read_only"), f"{place}.access"), instructions)
        )
    return tuple(found)


def _prompt_cache(given: Any, where: str) -> PromptCache | None:
    if isinstance(given, bool):
        return PromptCache() if given else None
    if not isinstance(given, dict):
        raise _invalid(where, f"must be true, false or a mapping, got {shown(given)}")
    _known_keys(given, ("ttl_seconds", "cache_control"), where)
    ttl = given.get("ttl_seconds", 300)
    if not isinstance(ttl, int) or isinstance(ttl, bool) or not 1 <= ttl <= MAX_PROMPT_CACHE_SECONDS:
        raise _invalid(
            f"{where}.ttl_seconds",
            f"must be a whole number of seconds from 1 to {MAX_PROMPT_CACHE_SECONDS}, got {shown(ttl)}",
        )
    return PromptCache(ttl, _boolean(given, "cache_control", True, where))


def _context(given: Any, where: str) -> ContextBudget | None:
    if given is None:
        return None
    given = _mapping(given, where)
    _known_keys(given, ("budget_tokens", "keep_turns", "summary"), where)
    if "budget_tokens" not in given:
        raise _invalid(where, "must say budget_tokens: how much of a conversation its prompts may hold")
    model = None
    if given.get("summary") is not None:
        summary = _mapping(given["summary"], f"{where}.summary")
        _known_keys(summary, ("model",), f"{where}.summary")
        model = summary.get("model")
        if not isinstance(model, str) or not 1 <= len(model) <= 256:
            raise _invalid(f"{where}.summary.model", f"must be the name of a configured model, got {shown(model)}")
    return ContextBudget(
        _within(given["budget_tokens"], MIN_CONTEXT_TOKENS, MAX_CONTEXT_TOKENS, f"{where}.budget_tokens"),
        _within(given.get("keep_turns", 2), 1, MAX_KEEP_TURNS, f"{where}.keep_turns"),
        model,
    )


def _borrowed(name: Any, given: Mapping[str, Any], where: str) -> BorrowedBlock:
    _named(name, where, "block")
    _known_keys(given, ("from", "access"), where)
    owner = given["from"]
    if not isinstance(owner, str) or not 1 <= len(owner) <= 256:
        raise _invalid(f"{where}.from", f"must be the name of the agent that shares the block, got {shown(owner)}")
    return BorrowedBlock(name, owner, parse_access(given.get("access", "read_only"), f"{where}.access"))


def parse_block(name: Any, definition: Any, where: str) -> BlockDefinition:
    """Read one block; a field is required by `required: true` in it or by the block's list `required`.

    Raises InvalidRequest with the path of what is wrong.
    """
    _named(name, where, "block")
    given = _mapping(definition, where)
    check_value(dict(given), where)
    _known_keys(given, _BLOCK_KEYS, where)
    scope = _one_of(given.get("scope", "user"), SCOPES, f"{where}.scope")
    description = given.get("description") or ""
    if not isinstance(description, str):
        raise _invalid(f"{where}.description", f"must be text, got {shown(description)}")
    fields = _mapping(given.get("fields"), f"{where}.fields")
    if not 0 < len(fields) <= MAX_FIELDS:
        raise _invalid(f"{where}.fields", f"must declare 1 to {MAX_FIELDS} fields, has {len(fields)}")
    definitions = _mapping(given.get("$defs") or {}, f"{where}.$defs")
    properties: dict[str, Any] = {}
    rules: dict[str, FieldRule] = {}
    required = _required(given.get("required") or [], fields, f"{where}.required")
    for field_name, declared in fields.items():
        place = f"{where}.fields.{field_name}"
        _named(field_name, place, "field")
        if isinstance(declared, dict) and isinstance(declared.get("required"), bool):
            if declared["required"] and field_name not in required:
                required.append(field_name)
            declared = {key: value for key, value in declared.items() if key != "required"}  # noqa: PLW2901
        if isinstance(declared, dict) and (rule := parse_rule(declared, place)) != _ORDINARY:
            rules[field_name] = rule
        if isinstance(declared, dict):
            declared = {key: value for key, value in declared.items() if key not in FIELD_KEYS}  # noqa: PLW2901
        properties[field_name] = json_schema.inline(declared, definitions, place)
    block = BlockDefinition(
        name,
        next(known for known in SCOPES if known == scope),
        " ".join(description.split()),
        {"type": "object", "properties": properties, "required": sorted(required), "additionalProperties": False},
        rules,
        parse_priority(given.get("priority", 0), f"{where}.priority"),
        None if given.get("token_budget") is None else _integer(given, "token_budget", 0, where),
        parse_sharing(given.get("shared_with") or {}, f"{where}.shared_with"),
        parse_steps(given.get("migrate") or [], properties, f"{where}.migrate"),
    )
    size = len(canonical(block.schema).encode())
    if size > MAX_SCHEMA_BYTES:
        raise _invalid(where, f"its schema takes {size} bytes; at most {MAX_SCHEMA_BYTES} are allowed")
    _ = block.validator  # compiled here, so that a bad schema is found when the agent is written
    for number, step in enumerate(block.migrate):
        if step.kind == "default" and (faults := block.problems({step.field: step.value})):
            raise _invalid(f"{where}.migrate[{number}].value", "; ".join(faults))
    return block


@lru_cache(maxsize=1024)
def stored_block(block: AgentBlock) -> BlockDefinition:
    """Return the definition that an agent's version stored; each is compiled once, since versions do not change."""
    options = json.loads(block.options)
    return BlockDefinition(
        block.name,
        block.scope,
        block.description,
        json.loads(block.schema),
        {name: FieldRule(**rule) for name, rule in options.get("rules", {}).items()},
        options.get("priority", 0),
        options.get("token_budget"),
        options.get("shared_with", {}),
    )


def _required(names: Any, fields: Mapping[str, Any], where: str) -> list[str]:
    if not isinstance(names, list):
        raise _invalid(where, f"must be a list of field names, got {shown(names)}")
    for name in names:
        if name not in fields:
            raise _invalid(where, f"there is no field {shown(name)}; fields: {', '.join(map(str, fields))}")
    return list(dict.fromkeys(names))


def _from_classes(blocks: Iterable[Any], where: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for number, block in enumerate(blocks):
        if not (isinstance(block, type) and issubclass(block, Block)):
            raise _invalid(
                f"{where}[{number}]", "must be a subclass of trunkline's Block; or make blocks a mapping by name"
            )
        definition = block.definition()
        if definition.name in found:
            raise _invalid(f"{where}[{number}]", f"two blocks are named {definition.name}")
        found[definition.name] = definition.to_json()
    return found


def _invalid(where: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"{where}: {why}.", param=where)


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _invalid(where, f"must be a mapping, got {shown(value) if value is not None else 'nothing'}")
    return value


def _named(name: Any, where: str, noun: str) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _invalid(
            where, f"a {noun}'s name is 1 to 64 ASCII letters, digits, _ or -, and begins with a letter or _"
        )


def _known_keys(given: Mapping[str, Any], allowed: tuple[str, ...], where: str) -> None:
    for key in given:
        if key not in allowed:
            close = difflib.get_close_matches(str(key), allowed, n=1)
            hint = f"did you mean {close[0]}?" if close else f"allowed: {', '.join(allowed)}"
            raise InvalidRequest(f"{where}.{key}: unknown key; {hint}", param=f"{where}.{key}")


def _one_of(value: Any, allowed: tuple[str, ...], where: str) -> str:
    if value not in allowed:
        raise _invalid(where, f"must be {' or '.join(allowed)}, got {shown(value)}")
    return str(value)


def _boolean(given: Mapping[str, Any], key: str, default: bool, where: str) -> bool:
    value = given.get(key, default)
    if not isinstance(value, bool):
        raise _invalid(f"{where}.{key}", f"must be true or false, got {shown(value)}")
    return value


def _within(value: Any, least: int, most: int, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise _invalid(where, f"must be a whole number from {least} to {most}, got {shown(value)}")
    return value


def _integer(given: Mapping[str, Any], key: str, default: int, where: str) -> int:
    value = given.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 1_000_000:
        raise _invalid(f"{where}.{key}", f"must be a whole number of tokens from 0 to 1000000, got {shown(value)}")
    return value
