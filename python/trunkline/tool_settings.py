"""What `tools:` in trunkline.yaml says: what workers carry out themselves."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ToolSettings(_Frozen):
    """The tools of workers."""

    modules: tuple[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")], ...] = ()
    """Python modules whose functions with `@trunkline.tool` agents may call; importable where workers start."""
