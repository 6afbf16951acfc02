"""Python functions as tools: `@tool` reads from a function's type hints and docstring what a model needs to call it."""

from __future__ import annotations

import asyncio
import functools
import inspect
import re
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, ParamSpec, TypeVar, get_type_hints, overload

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic_core import to_json

from trunkline.errors import SetupError

P = ParamSpec("P")
R = TypeVar("R")

TIMEOUT_SECONDS: Final = 60.0
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ARGUMENT: Final = re.compile(r"^(?P<indent>\s+)\*{0,2}(?P<name>\w+)(?:\s*\([^)]*\))?\s*:\s*(?P<text>.*)$")
_FIELD: Final = re.compile(r"^\s*:param (?:[^:]*\s)?(?P<name>\w+):\s*(?P<text>.*)$")
_SECTION: Final = re.compile(r"^\s*(Args|Arguments|Parameters|Returns?|Raises|Yields?|Examples?|Notes?):\s*$")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """Which call of a tool this is. A function gets it in a parameter with this type; the model does not see that."""

    id: str
    """The call's own id, the same when it is carried out again after a crash: use it as an idempotency key."""
    session_id: str
    agent_id: str
    tenant_id: str
    user_id: str | None


class FunctionTool(Generic[P, R]):
    """A function that models may call. Called from Python it is the function that it was."""

    def __init__(
        self,
        function: Callable[P, R],
        *,
        name: str | None,
        description: str | None,
        timeout_seconds: float,
        idempotent: bool,
        permission_policy: Literal["always_allow", "always_ask"],
    ) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self.name = name or str(getattr(function, "__name__", ""))
        said = inspect.getdoc(function) or ""
        self.description = description or _summary(said)
        self.timeout_seconds = timeout_seconds
        self.idempotent = idempotent
        self.permission_policy = permission_policy
        if not _NAME.fullmatch(self.name):
            raise SetupError(
                f"{self.name!r} is no name for a tool: give one of letters, digits, `_` and `-`, up to 64."
            )
        if not self.description:
            raise SetupError(f"The tool {self.name} has no docstring: the model must be told what it does.")
        if not timeout_seconds > 0:
            raise SetupError(f"The tool {self.name} has a timeout of {timeout_seconds} s; give more than 0.")
        self._arguments, self._calls = _arguments(function, self.name, said)
        self.input_schema: dict[str, Any] = {
            key: value for key, value in self._arguments.model_json_schema().items() if key != "title"
        }

    @property
    def definition(self) -> dict[str, Any]:
        """The tool as an agent declares it: an entry of its `tools`."""
        return {
            "type": "custom",
            "name": self.name,
            "description": self.description,
            "input_schema": self.input_schema,
        }

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function, as Python does."""
        return self._function(*args, **kwargs)

    async def run(self, call: ToolCall, given: Mapping[str, Any]) -> str:
        """Call the function with what a model gave, and return what it returned as text: JSON, unless it is a `str`.

        A plain function runs in a thread of its own, which nothing can end: past its time it is left behind. Raises
        pydantic's ValidationError, and whatever the function does.
        """
        checked = self._arguments.model_validate(dict(given))
        values = {
            name: getattr(checked, name) for name in type(checked).model_fields if name in checked.model_fields_set
        }
        values |= dict.fromkeys(self._calls, call)
        function: Callable[..., Any] = self._function
        if inspect.iscoroutinefunction(function):
            returned = await function(**values)
        else:
            returned = await _in_thread(functools.partial(function, **values), self.name)
            if isinstance(returned, Awaitable):
                returned = await returned
        if returned is None:
            return ""
        return returned if isinstance(returned, str) else to_json(returned, fallback=str).decode(errors="replace")


@overload
def tool(function: Callable[P, R], /) -> FunctionTool[P, R]: ...
@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
    idempotent: bool = False,
    permission_policy: Literal["always_allow", "always_ask"] = "always_allow",
) -> Callable[[Callable[P, R]], FunctionTool[P, R]]: ...
def tool(
    function: Callable[P, R] | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
    idempotent: bool = False,
    permission_policy: Literal["always_allow", "always_ask"] = "always_allow",
) -> FunctionTool[P, R] | Callable[[Callable[P, R]], FunctionTool[P, R]]:
    """Make a tool of a function, sync or async. Its type hints are the input schema, its docstring tells what it does.

    `idempotent`: after a crash it may be called again, with the same `ToolCall.id`. `permission_policy`: whether a
    person is asked before each call. Raises SetupError for a function that no model could call.
    """

    def make(function: Callable[P, R]) -> FunctionTool[P, R]:
        return FunctionTool(
            function,
            name=name,
            description=description,
            timeout_seconds=timeout_seconds,
            idempotent=idempotent,
            permission_policy=permission_policy,
        )

    return make if function is None else make(function)


def as_tool(function: Callable[..., Any]) -> FunctionTool[..., Any]:
    """Return a function as a tool, whether or not it is one already. Raises SetupError as `tool` does."""
    return function if isinstance(function, FunctionTool) else tool(function)


def _arguments(function: Callable[..., Any], name: str, said: str) -> tuple[type[BaseModel], list[str]]:
    """Return the model of what a function takes, and the parameters that are given the call. Raises SetupError."""
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError as error:
        raise SetupError(f"The type hints of the tool {name} cannot be read: {error}.") from error
    described = _described(said)
    fields: dict[str, Any] = {}
    calls = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise SetupError(
                f"The tool {name} has a parameter {parameter} that has no name for a model; name them all."
            )
        if parameter.name not in hints:
            raise SetupError(f"The parameter {parameter.name} of the tool {name} has no type hint; add one.")
        if hints[parameter.name] is ToolCall:
            calls.append(parameter.name)
            continue
        default = ... if parameter.default is parameter.empty else parameter.default
        about = described.get(parameter.name)
        fields[parameter.name] = (hints[parameter.name], Field(default, description=about) if about else default)
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=False)
    return create_model(name, __config__=config, **fields), calls


def _summary(said: str) -> str:
    """Return a docstring up to where its parameters are described."""
    lines = []
    for line in said.splitlines():
        if _SECTION.match(line) or _FIELD.match(line):
            break
        lines.append(line)
    return "\n".join(lines).strip()


def _described(said: str) -> dict[str, str]:
    """Return what a docstring says of each parameter: of a section `Args:`, or of lines `:param name:`."""
    found: dict[str, str] = {}
    inside, indent, last = False, "", ""
    for line in said.splitlines():
        section = _SECTION.match(line)
        if section is not None:
            inside, indent, last = section[1] in ("Args", "Arguments", "Parameters"), "", ""
        elif field := _FIELD.match(line):
            found[field["name"]] = field["text"].strip()
        elif inside and (argument := _ARGUMENT.match(line)) and (not indent or argument["indent"] == indent):
            indent, last = argument["indent"], argument["name"]
            found[last] = argument["text"].strip()
        elif inside and last and line.strip():
            found[last] = f"{found[last]} {line.strip()}".strip()
    return found


async def _in_thread(act: Callable[[], Any], name: str) -> Any:
    """Run a function in a daemon thread: one that hangs keeps neither a place in a pool nor the process."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def settle(value: Any, error: BaseException | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(value)
        else:
            done.set_exception(error)

    def run() -> None:
        value: Any = None
        raised: Exception | None = None
        try:
            value = act()
        except StopIteration as error:  # no future takes it
            raised = RuntimeError(f"StopIteration: {error}")
        except BaseException as error:  # noqa: BLE001 (it is raised where the function is awaited)
            raised = error if isinstance(error, Exception) else RuntimeError(f"{type(error).__name__}: {error}")
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, value, raised)

    threading.Thread(target=run, name=f"tool {name}", daemon=True).start()
    return await done
