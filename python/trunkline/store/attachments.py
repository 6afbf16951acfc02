"""What is attached to a session: memory stores, files and repositories, as they were at that moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from trunkline.domain import ids
from trunkline.domain.principal import Principal
from trunkline.domain.repositories import RepositoryResource
from trunkline.domain.sessions import MAX_RESOURCES, UPLOADS, FileResource, MemoryStoreResource
from trunkline.domain.times import to_wire
from trunkline.errors import Forbidden, InvalidRequest, NotFound
from trunkline.store import files, sessions
from trunkline.store.pool import Connection

Attached = Mapping[str, Any]
"""A resource as it is stored in the session, and told on the wire."""


async def attached(
    connection: Connection,
    principal: Principal,
    given: Sequence[MemoryStoreResource | FileResource | RepositoryResource],
    at: datetime,
    *,
    beside: Sequence[Attached] = (),
    where: str = "resources",
) -> list[Attached]:
    """Return what is attached once `given` is added to `beside`; errors name the place in `where`.

    Raises Forbidden for a store that the key may only read and that is to be written; NotFound for a store or file that
    is not there or not for this key; InvalidRequest for one that is attached already, for two things in one place, and
    for too many.
    """
    if len(beside) + len(given) > MAX_RESOURCES:
        raise InvalidRequest(f"A session has at most {MAX_RESOURCES} resources.", param="resources")
    if not given:
        return list(beside)
    store_ids = [ids.decode("memstore", one.memory_store_id) for one in given if isinstance(one, MemoryStoreResource)]
    stores = await sessions.attachable_stores(connection, principal, store_ids) if store_ids else {}
    file_ids = [ids.decode("file", one.file_id) for one in given if isinstance(one, FileResource)]
    there = await files.there(connection, principal, file_ids, at) if file_ids else {}
    known: set[str] = {key for resource in beside for key in _keys(resource)}
    after = list(beside)
    for index, resource in enumerate(given):
        param = f"{where}[{index}]"
        if isinstance(resource, MemoryStoreResource):
            store = stores.get(ids.decode("memstore", resource.memory_store_id))
            if store is None:
                raise NotFound(
                    f"There is no memory store {resource.memory_store_id} that could be attached.",
                    param=param,
                    code="memory_store_not_found",
                )
            new: dict[str, Any] = {
                **resource.model_dump(mode="json"),
                "access": _access(principal, resource, param),
                "name": store.name,
                "description": store.description,
                "mount_path": None,
            }
        elif isinstance(resource, RepositoryResource):
            new = {
                "id": ids.encode("sesrsc", ids.new()),
                **resource.told(),
                "created_at": to_wire(at),
                "updated_at": to_wire(at),
            }
        else:
            if ids.decode("file", resource.file_id) not in there:
                raise NotFound(
                    f"There is no file {resource.file_id} that could be attached.", param=param, code="file_not_found"
                )
            new = {
                "id": ids.encode("sesrsc", ids.new()),
                "type": "file",
                "file_id": resource.file_id,
                "mount_path": resource.mount_path or f"{UPLOADS}/{resource.file_id}",
                "created_at": to_wire(at),
                "updated_at": to_wire(at),
            }
        for key in _keys(new):
            if key in known:
                raise InvalidRequest(f"{key} is attached already; a session has it once.", param=param)
            known.add(key)
        after.append(new)
    return after


def _access(principal: Principal, resource: MemoryStoreResource, param: str) -> str:
    """Return how a store is attached, by default as the key may use it. Raises Forbidden for more than that."""
    stores = principal.stores
    most = "read_write" if stores is None else stores.access(ids.decode("memstore", resource.memory_store_id), None)
    if resource.access == "read_write" and most != "read_write":
        raise Forbidden(
            f"The key {principal.key_name!r} may only read {resource.memory_store_id}; attach it with the access "
            "`read_only`.",
            param=f"{param}.access",
            code="store_read_only",
        )
    return resource.access or most or "read_only"


def id_of(resource: Attached) -> str:
    """Return the id that a resource goes by: a memory store's is the store's own."""
    return str(resource["memory_store_id"] if resource["type"] == "memory_store" else resource["id"])


def find(resources: Sequence[Attached], wanted: str, session_id: UUID) -> Attached:
    """Return the resource of this id. Raises NotFound."""
    for resource in resources:
        if id_of(resource) == wanted:
            return resource
    raise NotFound(
        f"There is no resource {wanted[:80]!r} in this session; GET /v1/sessions/{ids.encode('sesn', session_id)}"
        "/resources lists those there are."
    )


def _keys(resource: Attached) -> tuple[str, ...]:
    """Return what no other resource of the session may have too."""
    if resource["type"] == "memory_store":
        return (str(resource["memory_store_id"]),)
    return (str(resource["mount_path"]),)
