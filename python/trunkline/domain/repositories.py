"""Repositories that sessions are given: what is told of one, and the token that is not."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

WORKSPACE: Final = "/workspace"
_HOST: Final = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?|[0-9a-f:.]+")
"""What all who read a URL take for the same host; git's own reader is another than ours."""
_NOT_IN_NAMES: Final = frozenset(" ~^:?*[\\\x7f")


def _repository(url: str) -> str:
    problem = "must be a URL such as 'https://github.com/owner/repository'"
    try:
        parts = urlsplit(url)
        is_host = _HOST.fullmatch(parts.hostname or "") is not None
        good = parts.scheme in ("https", "http") and is_host and (parts.port is None or parts.port > 0)
    except ValueError as error:
        raise ValueError(problem) from error
    if not good or not url.isascii() or not url.isprintable() or " " in url or "?" in url or "#" in url:
        raise ValueError(problem)
    if "@" in parts.netloc:
        raise ValueError("must not hold a user or a token; that goes into `authorization_token`")
    if _name(url) in ("", ".", ".."):
        raise ValueError(problem)
    return url


def _path(path: str | None) -> str | None:
    if path is not None and (".." in path.split("/") or not path.strip("/.")):
        raise ValueError("must name a directory, without '..'")
    return path


def _branch(name: str) -> str:
    """Refuse what git does not take for a branch, or would take for something else."""
    bad = any(ord(one) < 0x20 or one in _NOT_IN_NAMES for one in name)
    if bad or name.startswith(("-", "/", ".")) or name.endswith(("/", ".", ".lock")) or ".." in name or "@{" in name:
        raise ValueError("is no name of a branch")
    return name


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Branch(_Frozen):
    """The end of a branch."""

    type: Literal["branch"]
    name: Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_branch)]


class Commit(_Frozen):
    """One commit, by all of its hash."""

    type: Literal["commit"]
    sha: Annotated[str, Field(pattern=r"^([0-9a-f]{40}|[0-9a-f]{64})$")]


Checkout = Annotated[Branch | Commit, Field(discriminator="type")]
Token = Annotated[SecretStr, Field(min_length=1, max_length=4096)]


class RepositoryResource(_Frozen):
    """A repository that is cloned for the session; without a `mount_path` into the workspace, by its name."""

    type: Literal["github_repository"]
    url: Annotated[str, Field(max_length=2048), AfterValidator(_repository)]
    authorization_token: Token | None = None
    checkout: Checkout | None = None
    mount_path: Annotated[
        str | None,
        Field(pattern=r"^/[^\x00-\x1f\x7f]*$", max_length=1024),
        AfterValidator(_path),
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, given: Any) -> Any:
        return {key: value for key, value in given.items() if value is not None} if isinstance(given, dict) else given

    def told(self) -> dict[str, Any]:
        """Return what the wire tells of it, but for its id and times."""
        return {
            "type": self.type,
            "url": self.url,
            "checkout": None if self.checkout is None else self.checkout.model_dump(),
            "mount_path": self.mount_path or f"{WORKSPACE}/{_name(self.url)}",
        }


class RepositoryUpdate(_Frozen):
    """Another token for a repository."""

    authorization_token: Token


def _name(url: str) -> str:
    return urlsplit(url).path.rstrip("/").rpartition("/")[2].removesuffix(".git")
