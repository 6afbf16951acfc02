"""What `tools:` in trunkline.yaml says: what workers carry out themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ToolSettings(_Frozen):
    """The tools of workers."""

    modules: tuple[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")], ...] = ()
    """Python modules whose functions with `@trunkline.tool` agents may call; importable where workers start."""
    sandbox: Literal["auto", "bubblewrap", "limits", "none"] = "auto"
    """How commands and files of sessions are kept apart from the machine. `auto`: by bubblewrap; where there is none,
    as another user within limits if the worker is root, and else there are none. `limits`: as the worker's own user
    too, who can read what the worker can, if that is not root."""
    network: Literal["none", "host"] = "none"
    """What commands can reach: nothing, or, in environments that do not limit it, what the worker's machine can."""
    directory: Path | None = None
    """Where sessions' files are; without it `sandboxes` in TRUNKLINE_HOME. Every user of the machine must be allowed to
    pass through the directories above it where the worker is root."""
