"""Where the tools of a worker's sessions come from."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit
from uuid import UUID

from trunkline.errors import SetupError, Unavailable
from trunkline.oauth.renewals import TokenRenewals
from trunkline.runtime.tools import functions
from trunkline.runtime.tools.builtin import builtin
from trunkline.runtime.tools.functions import Functions
from trunkline.runtime.tools.local_sandbox import Confinement, confinement, hide_from_own_user, open_sandbox
from trunkline.runtime.tools.mcp.credentials import Bearer, CredentialError, bearer_for
from trunkline.runtime.tools.mounts import mount
from trunkline.runtime.tools.repositories import Repositories
from trunkline.runtime.tools.sandbox import Ended, Sandbox
from trunkline.runtime.tools.tool import Tool, ToolError
from trunkline.runtime.tools.toolbox import News, Problem, RepositoryProblem, Toolbox
from trunkline.store import leases
from trunkline.store.leases import Lease, Task
from trunkline.store.pool import Database
from trunkline.store.sealing import Sealing
from trunkline.tool_settings import ToolSettings

if TYPE_CHECKING:
    from trunkline.runtime.tools.mcp.tools import McpTools, Server

_logger = logging.getLogger(__name__)

SWEEP_SECONDS: Final = 600.0
"""How often directories of sessions that have ended are looked for."""


@dataclass
class WorkerTools:
    """What this worker carries out: Python `functions` by name, shell and files in directories of this machine, MCP.

    `sealing` opens the credentials of vaults.
    """

    settings: ToolSettings
    directory: Path
    functions: Functions = field(default_factory=dict)
    confined: Confinement | None = None
    sealing: Sealing = field(default_factory=lambda: Sealing(()))
    _mcp: McpTools | None = None
    _renewals: TokenRenewals | None = None

    async def open(self, database: Database, lease: Lease, task: Task) -> Toolbox:
        """Return what a session's agent may call. Raises Unavailable when the database is away."""
        declared = task.definition["tools"]
        custom = [tool for tool in declared if tool["type"] == "custom"]
        served: list[Tool] = functions.served(self.functions, custom)
        problems: list[News] = []
        for toolset in declared:
            if toolset["type"] == "agent_toolset_20260401":
                sandbox, missing = await self._sandbox(database, lease, task)
                served += builtin(toolset, sandbox)
                problems += missing
        toolsets = [tool for tool in declared if tool["type"] == "mcp_toolset" and _offers_any(tool)]
        if not toolsets:
            return Toolbox(custom, served, problems)
        found, unusable = await self._of_servers(database, lease, task, toolsets)
        unusable[:0] = problems  # which calls go on to fill
        return Toolbox(custom, [*served, *found], unusable)

    async def close(self) -> None:
        """End the connections to MCP servers, and their programs; tokens that are being renewed are stored first."""
        if self._renewals is not None:
            await self._renewals.close()
        if self._mcp is not None:
            await self._mcp.close()

    async def _of_servers(
        self, database: Database, lease: Lease, task: Task, toolsets: Sequence[Mapping[str, Any]]
    ) -> tuple[list[Tool], list[News]]:
        """Return the tools of an agent's MCP servers, and the servers that cannot be used."""
        urls = {server["name"]: server["url"] for server in task.definition["mcp_servers"]}
        try:
            # It takes a second, during which leases must be renewed.
            await asyncio.to_thread(import_module, "trunkline.runtime.tools.mcp.tools")
            from trunkline.runtime.tools.mcp.connections import Target  # noqa: PLC0415 (an extra)
            from trunkline.runtime.tools.mcp.tools import McpTools, Server  # noqa: PLC0415
        except ModuleNotFoundError:
            missing = "The worker lacks the package for MCP servers: pip install 'trunkline[mcp]'. Tell the operator."
            return [], [Problem(toolset["mcp_server_name"], missing) for toolset in toolsets]
        if self._mcp is None:
            self._mcp = McpTools(self.settings.mcp)
        problems: list[Problem] = []
        reached: list[Mapping[str, Any]] = []
        for toolset in toolsets:
            url = urls[toolset["mcp_server_name"]]
            if _may_reach(task, url):
                reached.append(toolset)
            else:
                words = f"The environment of the session does not let it reach {url}."
                problems.append(Problem(toolset["mcp_server_name"], words))
        bearers = await asyncio.gather(
            *(self._bearer(database, lease, task, urls[toolset["mcp_server_name"]]) for toolset in reached)
        )
        servers: list[Server] = []
        for toolset, bearer in zip(reached, bearers, strict=True):
            name = toolset["mcp_server_name"]
            if isinstance(bearer, CredentialError):
                words = f"The MCP server {name} cannot be used: {bearer}"
                problems.append(Problem(name, words, is_refusal=True))
                continue
            servers.append(Server(name, Target(lease.tenant_id, lease.session_id, urls[name], bearer), toolset))
        tools, unusable = await self._mcp.open(servers)
        unusable[:0] = problems  # which it goes on to fill
        return tools, unusable

    async def _bearer(self, database: Database, lease: Lease, task: Task, url: str) -> Bearer | CredentialError:
        if self._renewals is None:
            self._renewals = TokenRenewals(database, self.sealing, self.settings.mcp.allow)
        renewals = self._renewals
        try:
            return await bearer_for(database, self.sealing, renewals, lease=lease, task=task, url=url)
        except CredentialError as error:
            return error

    async def _sandbox(
        self, database: Database, lease: Lease, task: Task
    ) -> tuple[Sandbox, Sequence[RepositoryProblem]]:
        """Return a session's place with what it was given in it, and the repositories that are not."""
        if task.self_hosted:
            return _Nowhere("This environment is self-hosted: its owner carries out commands."), ()
        if self.confined is None:
            return _Nowhere("Shell and files are not available: this worker has no sandbox. Tell the operator."), ()
        folder = self.directory / str(lease.tenant_id) / str(lease.session_id)
        network = self.settings.network == "host" and task.network == "unrestricted"
        try:
            sandbox = await asyncio.to_thread(
                open_sandbox, folder, lease.session_id, confined=self.confined, network=network
            )
            repositories = Repositories(self.sealing, self.settings.repositories.allow)
            # Before files, which may be mounted within them.
            missing = await repositories.mount(database, lease, sandbox, task.resources)
            await mount(database, lease.tenant_id, sandbox, task.resources)
        except (OSError, ToolError):
            _logger.exception("the sandbox of session %s cannot be made", lease.session_id)
            return _Nowhere("Shell and files are not available: the sandbox could not be made. Tell the operator."), ()
        return sandbox, missing

    async def sweep(self, database: Database) -> None:
        """Delete, again and again, the directories of sessions that are gone, archived or terminated."""
        while True:
            try:
                for tenant in await asyncio.to_thread(_names, self.directory):
                    there = await asyncio.to_thread(_names, self.directory / str(tenant))
                    async with database.tenant(tenant) as connection:
                        kept = await leases.alive(connection, tenant, there)
                    for session in set(there) - kept:
                        folder = self.directory / str(tenant) / str(session)
                        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            except (OSError, Unavailable) as error:
                _logger.warning("directories of sessions are swept later: %s", error)
            await asyncio.sleep(SWEEP_SECONDS)


@dataclass(frozen=True)
class _Nowhere:
    """Stands for a sandbox that there is none of; says why."""

    about: str

    async def run(self, argv: object, *, seconds: float) -> Ended:  # noqa: ARG002
        raise ToolError(self.about)

    async def read(self, path: str, limit: int) -> bytes:  # noqa: ARG002
        raise ToolError(self.about)

    async def write(self, path: str, content: bytes) -> None:  # noqa: ARG002
        raise ToolError(self.about)

    async def glob(self, pattern: str, path: str) -> list[str]:  # noqa: ARG002
        raise ToolError(self.about)

    def place(self, path: str) -> str:
        return path


def _offers_any(toolset: Mapping[str, Any]) -> bool:
    """Tell whether any tool of a toolset is enabled: a server of which none is, is not even connected to."""
    return toolset["default_config"]["enabled"] or any(config["enabled"] for config in toolset["configs"])


def _may_reach(task: Task, url: str) -> bool:
    """Tell whether the session's environment lets it use a server; programs are the operator's matter."""
    if task.environment is None or task.network == "unrestricted" or task.self_hosted or url.startswith("stdio:"):
        return True
    networking = task.environment["networking"]
    return networking["allow_mcp_servers"] or urlsplit(url).hostname in networking["allowed_hosts"]


def worker_tools(settings: ToolSettings, home: Path, vault_keys: Sequence[bytes]) -> WorkerTools:
    """Return the tools that settings ask for; `vault_keys` open the credentials of vaults.

    Raises SetupError when they cannot be had.
    """
    found = functions.load(settings.modules)
    confined: Confinement | None = None
    if settings.sandbox == "limits":
        confined = "limits"
        hide_from_own_user()
    elif settings.sandbox != "none":
        confined = confinement()
        if settings.sandbox == "bubblewrap" and confined != "bubblewrap":
            raise SetupError(
                "tools.sandbox is bubblewrap, and `bwrap` is not installed or not allowed user namespaces here."
            )
    directory = (settings.directory or home / "sandboxes").expanduser().absolute()
    return WorkerTools(settings, directory, found, confined, Sealing(vault_keys))


def _names(folder: Path) -> list[UUID]:
    """Return the ids that directories are named by."""
    if not folder.is_dir():
        return []
    found = []
    for entry in os.scandir(folder):
        try:
            found.append(UUID(entry.name))
        except ValueError:
            continue
    return found
