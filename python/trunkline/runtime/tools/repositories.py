"""The repositories that a session was given, cloned into its sandbox before its first tool runs.

Git runs as the session's user, beside the session's files and out of reach of its commands. The token comes to it
through a pipe that only its credential helper reads: it is in no argument, environment, file or setting of git's.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from trunkline.domain import ids
from trunkline.errors import Unavailable
from trunkline.oauth.secrecy import basic, hidden
from trunkline.public_hosts import Allowed, NotAllowed, address_of
from trunkline.runtime.tools.local_sandbox import TAKEN, LocalSandbox
from trunkline.runtime.tools.mounts import Mounted
from trunkline.runtime.tools.output import cut
from trunkline.runtime.tools.session_files import split
from trunkline.runtime.tools.tool import ToolError
from trunkline.runtime.tools.toolbox import RepositoryErrorName, RepositoryProblem
from trunkline.store import repository_tokens
from trunkline.store.leases import Lease
from trunkline.store.pool import Database
from trunkline.store.sealing import Sealing

CLONE_SECONDS: Final = 120.0
"""For the whole of one repository: the model waits for it."""
_VERSION_SECONDS: Final = 10.0
_OLDEST: Final = (2, 37)
"""Before that git cannot be told which address a name stands for."""
_USER: Final = "x-access-token"
"""What hosts take beside a token; most look at the token alone."""
_LONGEST_REASON: Final = 300
_STAGING: Final = "clone-"

_SAID: Final[tuple[tuple[str, RepositoryErrorName, str], ...]] = (
    ("could not read Username", "repository_authentication_error", "Its host wants a token."),
    ("Authentication failed", "repository_authentication_error", "Its host refuses the token."),
    ("requested URL returned error: 401", "repository_authentication_error", "Its host refuses the token."),
    ("requested URL returned error: 403", "repository_forbidden_error", "Its host forbids it to the token."),
    ("requested URL returned error: 404", "repository_not_found_error", "Its host knows no such repository."),
    (
        "requested URL returned error: 30",
        "repository_clone_error",
        "Its host says that it has moved, and redirects are not followed: give the URL that it has now.",
    ),
    ("' not found", "repository_not_found_error", "Its host knows no such repository."),
)
"""What git says, in the order in which it is looked for."""


class _Failed(Exception):
    def __init__(self, kind: RepositoryErrorName, message: str) -> None:
        super().__init__(message)
        self.kind: RepositoryErrorName = kind


@dataclass(frozen=True, slots=True)
class Repositories:
    """Clones for the sessions of a worker. `allow`: hosts may be there beside public addresses, over http too."""

    sealing: Sealing
    allow: Collection[Allowed]

    async def mount(
        self, database: Database, lease: Lease, sandbox: LocalSandbox, resources: Sequence[Mapping[str, Any]]
    ) -> list[RepositoryProblem]:
        """Clone what is not there yet, and return what could not be: it is tried again when the session works next.

        Raises Unavailable when the database is away.
        """
        wanted = [resource for resource in resources if resource["type"] == "github_repository"]
        if not wanted:
            return []
        await asyncio.to_thread(_clear, sandbox.files.root.parent)  # of a worker that was killed meanwhile
        mounted = Mounted(sandbox)
        problems = []
        for resource in wanted:
            if resource["id"] in mounted:
                continue
            try:
                async with asyncio.timeout(CLONE_SECONDS):
                    await self._clone(database, lease, sandbox, resource)
            except TimeoutError:
                words = f"It was not cloned within {CLONE_SECONDS:g} s."
                problems.append(_problem(resource, "repository_clone_error", words))
            except _Failed as failed:
                problems.append(_problem(resource, failed.kind, str(failed)))
            except (ToolError, OSError) as error:
                problems.append(_problem(resource, "repository_clone_error", str(error)))
            else:
                await asyncio.to_thread(mounted.add, resource["id"])
        return problems

    async def _clone(
        self, database: Database, lease: Lease, sandbox: LocalSandbox, resource: Mapping[str, Any]
    ) -> None:
        path: str = resource["mount_path"]
        if split(path)[:1] in [[name] for name in TAKEN]:
            raise ToolError(f"{path} is in a directory of the system's; give the repository another `mount_path`.")
        url, checkout = resource["url"], resource["checkout"]
        settings = await reached(url, self.allow)
        async with database.tenant(lease.tenant_id) as connection:
            try:
                token = await repository_tokens.get(
                    connection,
                    self.sealing,
                    lease.tenant_id,
                    lease.session_id,
                    resource_id=ids.decode("sesrsc", resource["id"]),
                )
            except Unavailable as error:
                if error.code is None:  # the database's own
                    raise
                raise _Failed("repository_clone_error", f"Its token cannot be read: {error.message}") from error
        folder = await asyncio.to_thread(_staging, sandbox)
        git = Git(sandbox, folder, settings, token)
        try:
            await git.look()
            await git.clone(url, checkout)
            await asyncio.to_thread(sandbox.files.take_in, folder / "new", path)
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def reached(url: str, allow: Collection[Allowed]) -> dict[str, str]:
    """Return the settings that have git go to the one address that was looked at. Raises _Failed."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        address = await address_of(host, port, allow, "tools.repositories.allow")
    except NotAllowed as refused:
        raise _Failed("repository_clone_error", str(refused)) from refused
    is_inside = host in allow or any(not isinstance(one, str) and address in one for one in allow)
    if parts.scheme != "https" and not is_inside:
        words = "Repositories are cloned over https alone: whoever listens would read the token."
        raise _Failed("repository_clone_error", words)
    settings = {"http.followRedirects": "false", "http.proxy": "", "gc.auto": "0"}
    if not _is_address(host):
        shown = f"[{address}]" if address.version == 6 else str(address)
        settings["http.curloptResolve"] = f"{host}:{port}:{shown}"
    return settings


class Git:
    """Git for one repository, in a folder of its own."""

    def __init__(self, sandbox: LocalSandbox, folder: Path, settings: Mapping[str, str], token: str | None) -> None:
        self._sandbox = sandbox
        self._folder = folder
        self._settings = settings
        self._token = token

    async def look(self) -> None:
        """Raise _Failed unless there is a git that can do what is asked of it."""
        if shutil.which("git", path=self._sandbox.path) is None:
            raise _Failed("repository_clone_error", "Git is not installed where the worker runs. Tell the operator.")
        _, said = await self._run(["version"], {})
        found = re.search(r"(\d+)\.(\d+)", said)
        if found is None or (int(found[1]), int(found[2])) < _OLDEST:
            oldest = ".".join(map(str, _OLDEST))
            words = f"The worker's git is older than {oldest}. Tell the operator."
            raise _Failed("repository_clone_error", words)

    async def clone(self, url: str, checkout: Mapping[str, Any] | None) -> None:
        """Clone into `new` with the token, and check out what is asked for. Raises _Failed."""
        how = ["--no-checkout"] if checkout else []
        arguments = ["clone", "--quiet", "--template=", *how, "--", url, "new"]
        async with _readable(self._token) as end:
            settings = dict(self._settings)
            if end is not None:
                # Of what git asks helpers for, `get` is the one that wants an answer.
                settings["credential.helper"] = '!f() { test "$1" != get || cat <&3; }; f'
            status, said = await self._run(arguments, settings, end)
        if status != 0:
            for words, kind, told in _SAID:
                if words in said:
                    raise _Failed(kind, told)
            raise _Failed("repository_clone_error", f"It could not be cloned. {self._reason(said)}")
        if checkout:
            await self._check_out(checkout)

    async def _check_out(self, checkout: Mapping[str, Any]) -> None:
        """Check out a branch or a commit. Raises _Failed."""
        if checkout["type"] == "branch":
            name = checkout["name"]
            wanted, told = f"refs/remotes/origin/{name}", f"It has no branch {name}."
            how = ["-B", name, "--track", wanted]
        else:
            wanted, told = checkout["sha"], f"It has no commit {checkout['sha']} on a branch."
            how = ["--detach", wanted]
        status, _ = await self._run(["-C", "new", "cat-file", "-e", f"{wanted}^{{commit}}"], self._settings)
        if status != 0:
            raise _Failed("repository_checkout_error", told)
        status, said = await self._run(["-C", "new", "checkout", "--quiet", *how, "--"], self._settings)
        if status != 0:
            raise _Failed("repository_clone_error", f"It could not be checked out. {self._reason(said)}")

    async def _run(
        self, arguments: Sequence[str], settings: Mapping[str, str], third: int | None = None
    ) -> tuple[int | None, str]:
        environment = {
            "HOME": str(self._folder),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ALLOW_PROTOCOL": "https:http",
            "GIT_CONFIG_COUNT": str(len(settings)),
        }
        for number, (name, value) in enumerate(settings.items()):
            environment |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
        argv = ["/usr/bin/env", "git", *arguments]
        ended = await self._sandbox.run_beside(
            argv, self._folder, environment=environment, seconds=CLONE_SECONDS, third=third
        )
        return ended.status, ended.output

    def _reason(self, said: str) -> str:
        """Return the line in which git says why, without the token, should the host have repeated it."""
        lines = [line for line in said.splitlines() if line.startswith(("fatal: ", "error: "))]
        known = () if self._token is None else (self._token, basic(_USER, self._token))
        return cut(hidden(lines[-1] if lines else "", known), _LONGEST_REASON)


@asynccontextmanager
async def _readable(token: str | None) -> AsyncIterator[int | None]:
    """Give the end of a pipe from which a credential helper's answer can be read once, for the block."""
    if token is None:
        yield None
        return
    reading, writing = os.pipe()
    try:
        # At most 4096 characters: it fits into the pipe, and nobody waits.
        os.write(writing, f"username={_USER}\npassword={token}\n".encode())
        os.close(writing)
        yield reading
    finally:
        os.close(reading)


def _staging(sandbox: LocalSandbox) -> Path:
    """Make a folder beside the session's files that its commands do not reach into."""
    folder = sandbox.files.root.parent / f"{_STAGING}{secrets.token_hex(8)}"
    folder.mkdir(mode=0o700)
    if sandbox.user is not None:
        os.chown(folder, sandbox.user, sandbox.user)
    return folder


def _clear(directory: Path) -> None:
    for left in directory.glob(f"{_STAGING}*"):
        shutil.rmtree(left, ignore_errors=True)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _problem(resource: Mapping[str, Any], kind: RepositoryErrorName, words: str) -> RepositoryProblem:
    return RepositoryProblem(resource["url"], kind, f"The repository {resource['url']} is not there: {words}")
