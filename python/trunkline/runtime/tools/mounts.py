"""The files that a session was given, put into its sandbox."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterable, Mapping
from typing import Any, Final
from uuid import UUID

from trunkline.domain import ids
from trunkline.domain.sessions import UPLOADS
from trunkline.errors import NotFound
from trunkline.runtime.tools.local_sandbox import TAKEN, LocalSandbox
from trunkline.runtime.tools.session_files import split
from trunkline.runtime.tools.tool import ToolError
from trunkline.store import files
from trunkline.store.pool import Database

_logger = logging.getLogger(__name__)

_MODE: Final = 0o644


class Mounted:
    """What of a session's resources was put into its sandbox once: if its commands delete it, it stays away."""

    def __init__(self, sandbox: LocalSandbox) -> None:
        self._note = sandbox.files.root.parent / "mounted.json"
        self._done: set[str] = set(json.loads(self._note.read_text())) if self._note.exists() else set()

    def __contains__(self, resource_id: str) -> bool:
        return resource_id in self._done

    def add(self, resource_id: str) -> None:
        """Note that a resource is there, or cannot be."""
        self._done.add(resource_id)
        made = self._note.with_suffix(".new")
        made.write_text(json.dumps(sorted(self._done)))
        made.replace(self._note)


async def mount(
    database: Database, tenant_id: UUID, sandbox: LocalSandbox, resources: Iterable[Mapping[str, Any]]
) -> None:
    """Copy files that are not there yet. One that cannot be put where it was asked for is told of in the log.

    Raises Unavailable when the database is away.
    """
    mounted = Mounted(sandbox)
    for resource in resources:
        if resource["type"] != "file" or resource["id"] in mounted:
            continue
        path = resource.get("mount_path") or f"{UPLOADS}/{resource['file_id']}"
        try:
            if split(path)[:1] in [[name] for name in TAKEN]:
                raise ToolError(f"{path} is in a directory of the system's.")  # noqa: TRY301
            content = await _content(database, tenant_id, ids.decode("file", resource["file_id"]))
            await asyncio.to_thread(sandbox.files.write, path, content, mode=_MODE)
        except (ToolError, NotFound) as error:
            _logger.warning("%s was not mounted: %s", resource["id"], error)
        await asyncio.to_thread(mounted.add, resource["id"])


async def _content(database: Database, tenant_id: UUID, file_id: UUID) -> bytes:
    """Return a file's bytes; it is at most as large as a request to the control plane."""
    pieces: list[bytes] = []
    while not pieces or len(pieces[-1]) == files.PIECE_BYTES:
        async with database.tenant(tenant_id) as connection:
            piece = await files.piece(connection, tenant_id, file_id, len(pieces))
        if piece is None:
            break
        pieces.append(piece)
    return b"".join(pieces)
