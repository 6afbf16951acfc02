"""What becomes of each key of a configuration file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from trunkline.config_file import faults, key_of, read_mapping, resolve, words_of
from trunkline.errors import SetupError
from trunkline.litellm_config import LitellmConfig, is_litellm
from trunkline.litellm_keys import Finding
from trunkline.provider_settings import KnownProvider
from trunkline.settings import File, load


def check(
    path: Path, environ: Mapping[str, str], known_providers: Sequence[KnownProvider], verify: Callable[[str], None]
) -> list[Finding]:
    """Return what becomes of each key of a file of either kind.

    `verify` is the gateway's own judgement of its JSON: it raises ValueError. Raises SetupError for a file that cannot
    be read at all.
    """
    content = read_mapping(path)
    litellm = LitellmConfig(path, content) if is_litellm(content) else None
    findings = list(litellm.findings()) if litellm else [Finding(key, "used") for key in _leaves(content, "")]
    wrong: list[Finding] = []
    try:
        File.model_validate(litellm.translate(environ) if litellm else resolve(content, environ, path, ""))
        config = load(path, environ).gateway_config("", "http://127.0.0.1:1", known_providers)
        verify(json.dumps(config))
    except ValidationError as error:
        wrong = [Finding(key_of(fault), "invalid", words_of(fault)) for fault in faults(error)]
    except (SetupError, ValueError) as error:
        wrong = [Finding(str(path), "invalid", str(error).removeprefix(f"{path}: "))]
    keys = {found.key for found in wrong}
    return [found for found in findings if found.key not in keys] + wrong


def _leaves(value: Any, at: str) -> Iterator[str]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{at}.{key}" if at else str(key))
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{at}[{index}]")
    elif at:
        yield at
