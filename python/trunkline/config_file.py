"""Files of settings as text: YAML, references to environment variables in it, and what is wrong with it in words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from trunkline.errors import SetupError

_REFERENCE = re.compile(r"os\.environ/(.*)", re.DOTALL)


def read_mapping(path: Path) -> dict[Any, Any]:
    """Return what a YAML file says. Raises SetupError for a file that cannot be read or is no mapping."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SetupError(f"{path}: cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SetupError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SetupError(f"{path}: must be a mapping of settings, not {type(content).__name__}.")
    return content


def resolve(value: Any, environ: Mapping[str, str], path: Path, at: str) -> Any:
    """Return `value` with every `os.environ/NAME` replaced. Raises SetupError that names a missing variable."""
    if isinstance(value, dict):
        return {key: resolve(item, environ, path, f"{at}.{key}" if at else str(key)) for key, item in value.items()}
    if isinstance(value, list):
        return [resolve(item, environ, path, f"{at}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, str) and (reference := _REFERENCE.fullmatch(value)):
        name = reference[1]
        if not environ.get(name):
            raise SetupError(f"{path}: `{at}` takes the environment variable {name}, which is not set; set it.")
        return environ[name]
    return value


def faults(error: ValidationError) -> list[ErrorDetails]:
    """Return all that is wrong, without the values, which may be secrets."""
    return error.errors(include_url=False, include_input=False)


def key_of(fault: ErrorDetails) -> str:
    """Return the key as the user wrote it."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault["loc"]).lstrip(".")


def words_of(fault: ErrorDetails) -> str:
    """Say what is wrong with the key."""
    if fault["type"] == "extra_forbidden":
        return "unknown key; remove it or correct its spelling"
    return fault["msg"].removeprefix("Value error, ")


def describe(path: Path, error: ValidationError) -> str:
    """Put the first fault into one line."""
    fault = faults(error)[0]
    key = key_of(fault)
    if fault["type"] == "extra_forbidden":
        return f"{path}: unknown key `{key}`; remove it or correct its spelling."
    if fault["type"] == "missing":
        return f"{path}: `{key}` is missing."
    return f"{path}: `{key}`: {words_of(fault)}."
