"""The files of a session in a directory of this machine, reached so that no link and no `..` leads out of it."""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trunkline.runtime.tools.sandbox import WORKSPACE
from trunkline.runtime.tools.tool import ToolError

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
MOST_SEEN: Final = 50_000
"""Entries of directories that one search looks at."""
MOST_FOUND: Final = 1000


@dataclass(frozen=True, slots=True)
class SessionFiles:
    """A tree of files under `root`, which the model knows as `/`. `owner` is the user that made files belong to.

    The processes of tools change the tree at the same time, so every step of a path is opened from the one before
    without following links; a link is refused wherever it leads.
    """

    root: Path
    owner: int | None

    def read(self, path: str, limit: int) -> bytes:
        """Return a regular file's bytes. Raises ToolError."""
        parts = split(path)
        with self._directory(parts[:-1], path) as directory, _told(path):
            if not parts:
                raise IsADirectoryError(errno.EISDIR, "is a directory")
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe would be waited for
            with os.fdopen(os.open(parts[-1], flags, dir_fd=directory), "rb") as file:
                found = os.fstat(file.fileno())
                if not stat.S_ISREG(found.st_mode):
                    raise ToolError(f"{path} is not a regular file.")
                content = file.read(limit + 1)
        if len(content) > limit:
            raise ToolError(f"{path} has {found.st_size} bytes, more than the {limit} that are read; use bash.")
        return content

    def write(self, path: str, content: bytes, *, mode: int = 0o644, owner: int | None = None) -> None:
        """Put a file in place as a whole, with the directories above it. Raises ToolError."""
        parts = split(path)
        if not parts:
            raise ToolError(f"{path} is a directory.")
        owner = self.owner if owner is None else owner
        with self._directory(parts[:-1], path, make=True) as directory, _told(path):
            made = f".{secrets.token_hex(8)}"
            descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content)
                    with contextlib.suppress(FileNotFoundError):
                        there = os.stat(parts[-1], dir_fd=directory, follow_symlinks=False)
                        mode = stat.S_IMODE(there.st_mode) if stat.S_ISREG(there.st_mode) else mode
                    os.fchmod(file.fileno(), mode & 0o777)
                    if owner is not None:
                        os.fchown(file.fileno(), owner, owner)
                os.replace(made, parts[-1], src_dir_fd=directory, dst_dir_fd=directory)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(made, dir_fd=directory)
                raise

    def take_in(self, source: Path, path: str) -> None:
        """Move a directory of the same file system to where nothing is, or an empty one. Raises ToolError."""
        parts = split(path)
        with self._directory(parts[:-1], path, make=True) as directory, _told(path):
            os.rename(source, parts[-1], dst_dir_fd=directory)

    def make(self, path: str) -> None:
        """Make a directory and those above it. Raises ToolError."""
        with self._directory(split(path), path, make=True):
            pass

    def glob(self, pattern: str, path: str) -> list[str]:
        """Return the files under a directory that fit, newest first. Raises ToolError."""
        fits = fitting(pattern)
        base = split(path)
        found: list[tuple[float, str]] = []
        seen = 0
        with self._directory(base, path) as directory, _told(path):
            for folder, folders, names, at in os.fwalk(".", dir_fd=directory, follow_symlinks=False):
                folders.sort()
                seen += len(folders) + len(names)
                inside = folder.removeprefix(".").lstrip("/")
                for name in names:
                    relative = f"{inside}/{name}" if inside else name
                    if fits(relative.split("/")):
                        with contextlib.suppress(OSError):
                            changed = os.stat(name, dir_fd=at, follow_symlinks=False).st_mtime
                            found.append((-changed, "/" + "/".join([*base, relative])))
                if seen > MOST_SEEN:
                    break
        return [name for _, name in sorted(found)[:MOST_FOUND]]

    @contextlib.contextmanager
    def _directory(self, parts: Sequence[str], path: str, *, make: bool = False) -> Iterator[int]:
        """Open a directory of the tree, making it where told to."""
        with contextlib.ExitStack() as opened:
            with _told(path):
                at = os.open(self.root, _DIRECTORY)
                opened.callback(os.close, at)
                for part in parts:
                    if make:
                        with contextlib.suppress(FileExistsError):
                            os.mkdir(part, 0o755, dir_fd=at)
                            if self.owner is not None:
                                os.chown(part, self.owner, self.owner, dir_fd=at, follow_symlinks=False)
                    at = os.open(part, _DIRECTORY, dir_fd=at)
                    opened.callback(os.close, at)
            yield at


def split(path: str) -> list[str]:
    """Return the names that a path of the model's is made of. Raises ToolError for one that leads up."""
    if "\0" in path or not path:
        raise ToolError("The path is empty or has a NUL in it.")
    whole = path if path.startswith("/") else f"{WORKSPACE}/{path}"
    parts = [part for part in whole.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ToolError(f"{path} has '..' in it; give the path from {WORKSPACE}, or from /.")
    return parts


def fitting(pattern: str) -> Callable[[Sequence[str]], bool]:
    """Return what tells whether a path, as its names, fits a pattern: `**` stands for any directories.

    It takes time in proportion to pattern and path, whatever the model makes of either.
    """
    steps = [None if step == "**" else re.compile(fnmatch.translate(step)) for step in pattern.split("/") if step]

    def beyond(reached: set[int]) -> set[int]:
        """Add what is reached where a `**` stands for nothing."""
        found = set(reached)
        for at in reached:
            while at < len(steps) and steps[at] is None:
                at += 1  # noqa: PLW2901 (it walks on)
                found.add(at)
        return found

    def fits(names: Sequence[str]) -> bool:
        reached = beyond({0})
        for name in names:
            moved = set()
            for at in reached:
                step = steps[at] if at < len(steps) else None
                if step is None and at < len(steps):
                    moved.add(at)
                elif step is not None and step.match(name):
                    moved.add(at + 1)
            reached = beyond(moved)
        return len(steps) in reached

    return fits


@contextlib.contextmanager
def _told(path: str) -> Iterator[None]:
    """Tell what the system says of a path in words for the model."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise ToolError(f"{path} is, or leads over, a symbolic link or a file; links are not followed.") from error
        raise ToolError(f"{path}: {os.strerror(error.errno) if error.errno else error}.") from error
