"""Where Trunkline is and with which key: given, or from the environment, or from the local home's files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trunkline.errors import SetupError


@dataclass(frozen=True)
class Connection:
    """A base URL without `/v1` at its end, and an API key, which stays out of the repr."""

    base_url: str
    api_key: str = field(repr=False)


def resolve(base_url: str | None, api_key: str | None, environ: Mapping[str, str]) -> Connection:
    """Return the connection to use.

    Arguments come first, then `TRUNKLINE_BASE_URL` and `TRUNKLINE_API_KEY`, then what `trunkline up` left in
    `TRUNKLINE_HOME` (default `~/.trunkline`): `run.json` and `admin.key`. The home's key is only ever sent to the
    home's own gateway. Raises SetupError that names what is missing.
    """
    home = Path(environ.get("TRUNKLINE_HOME") or Path.home() / ".trunkline").expanduser()
    local_url = _local_url(home)
    url = _without_version(base_url or environ.get("TRUNKLINE_BASE_URL") or local_url or "")
    if not url:
        raise SetupError(
            f"No Trunkline is running here ({home / 'run.json'} does not exist): start one with `trunkline up`, "
            "or set TRUNKLINE_BASE_URL and TRUNKLINE_API_KEY."
        )
    if not url.startswith(("http://", "https://")):
        raise SetupError(f"The base URL is {url!r}: expected http://HOST:PORT or https://HOST.")
    key = api_key or environ.get("TRUNKLINE_API_KEY") or (_local_key(home) if url == local_url else None)
    if not key:
        raise SetupError(f"There is no API key for {url}: set TRUNKLINE_API_KEY.")
    return Connection(url, key)


def _local_url(home: Path) -> str | None:
    try:
        run = json.loads((home / "run.json").read_text(encoding="utf-8"))
        return _without_version(run["base_url"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SetupError(f"{home / 'run.json'} cannot be read: {error}. Restart `trunkline up`.") from error


def _local_key(home: Path) -> str | None:
    try:
        return (home / "admin.key").read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SetupError(f"{home / 'admin.key'} cannot be read: {error.strerror}.") from error


def _without_version(url: str) -> str:
    """Accept the base URL of an OpenAI client, which ends in `/v1`, for ours, which does not."""
    return url.rstrip("/").removesuffix("/v1").rstrip("/")
