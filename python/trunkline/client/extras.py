"""What a part of the package needs beside its own dependencies."""

from __future__ import annotations

from importlib.util import find_spec


def require(extra: str, module: str) -> None:
    """Raise ImportError that names the extra to install unless this module is there."""
    try:
        there = find_spec(module) is not None
    except ModuleNotFoundError:  # a package above it
        there = False
    if not there:
        raise ImportError(f"There is no module {module}: pip install 'trunkline[{extra}]'", name=module)
