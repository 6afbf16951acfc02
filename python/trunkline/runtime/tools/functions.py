"""Python functions that this worker serves to agents that declare a custom tool of their name."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from trunkline.errors import SetupError
from trunkline.function_tools import FunctionTool, ToolCall
from trunkline.runtime.tools.tool import Input, Result, Tool, ToolError, text

Functions = Mapping[str, FunctionTool[Any, Any]]


def served(functions: Functions, custom: Iterable[Mapping[str, Any]]) -> list[Tool]:
    """Return the tools that an agent declares and a function here carries out, as the agent describes them."""
    return [_served(functions[tool["name"]], tool) for tool in custom if tool["name"] in functions]


def _served(function: FunctionTool[Any, Any], declared: Mapping[str, Any]) -> Tool:
    async def run(call: ToolCall, given: Input) -> Result:
        try:
            return text(await function.run(call, given))
        except ValidationError as error:
            if error.title != function.name:
                raise
            wrong = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'input'}: {one['msg']}" for one in error.errors())
            raise ToolError(f"The input is not what {function.name} takes: {wrong}") from error

    return Tool(
        function.name,
        declared["description"],
        declared["input_schema"],
        function.permission_policy,
        run,
        function.timeout_seconds,
        idempotent=function.idempotent,
    )


def load(modules: Iterable[str]) -> Functions:
    """Import modules and return the tools in them by name. Raises SetupError."""
    found: dict[str, FunctionTool[Any, Any]] = {}
    for name in modules:
        try:
            module = importlib.import_module(name)
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            raise SetupError(
                f"The module of tools {name!r} cannot be imported: {type(error).__name__}: {error} "
                f"({last.filename}:{last.lineno})."
            ) from error
        there = [value for value in vars(module).values() if isinstance(value, FunctionTool)]
        if not there:
            raise SetupError(f"The module of tools {name!r} has no function with `@trunkline.tool`.")
        for tool in there:
            if found.setdefault(tool.name, tool) is not tool:
                raise SetupError(f"Two tools are named {tool.name!r}; names must be unique over all modules.")
    return found
