"""Where the tools of a worker's sessions come from."""

from __future__ import annotations

from dataclasses import dataclass, field

from trunkline.runtime.tools import functions
from trunkline.runtime.tools.functions import Functions
from trunkline.runtime.tools.toolbox import Toolbox
from trunkline.store.leases import Lease, Task


@dataclass(frozen=True)
class WorkerTools:
    """What this worker carries out. `functions` are Python's, by name."""

    functions: Functions = field(default_factory=dict)

    async def open(self, lease: Lease, task: Task) -> Toolbox:  # noqa: ARG002
        """Return what a session's agent may call."""
        custom = [tool for tool in task.definition["tools"] if tool["type"] == "custom"]
        return Toolbox(custom, functions.served(self.functions, custom))
