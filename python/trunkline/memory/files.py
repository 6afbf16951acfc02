"""Memory as files: what Anthropic's memory tool shows to the model that the gateway serves.

`/memories` is the store of the session's user, or of the session where it names none. A store that is attached to the
session is the directory of its name in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

from trunkline.domain import ids
from trunkline.domain.memory import Actor, AttachedStore, Memory, MemoryPathConflict, Source, StoreOwner
from trunkline.domain.memory_tool import PAGE, ROOT, Call, CommandRefused, Delete, Rename, read_command, steps_of
from trunkline.domain.principal import Principal
from trunkline.domain.times import now
from trunkline.errors import Conflict, Forbidden, InvalidRequest, NotFound
from trunkline.memory.documents import create_document, delete_document, update_document
from trunkline.memory.paths import check_path, check_prefix
from trunkline.store import memories, memory_stores
from trunkline.store.pool import Connection

_REFUSALS: Final = (InvalidRequest, NotFound, Conflict, Forbidden)


@dataclass(frozen=True, slots=True)
class Entry:
    """A memory, or in a list that stops at a depth, a path with a slash at its end that stands for deeper ones."""

    id: str
    path: str
    content: str | None = None
    content_sha256: str = ""
    content_size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Page:
    """Entries in byte order of their paths, and where the next page goes on."""

    data: Sequence[Entry]
    next_page: str | None = None


class Files:
    """The files of one subject, within one transaction. `own` is made with the first file in it."""

    def __init__(
        self,
        connection: Connection,
        principal: Principal,
        own: StoreOwner,
        mounts: Sequence[AttachedStore],
        *,
        agent_id: UUID,
        actor: Actor,
        source: Source,
    ) -> None:
        self._connection = connection
        self._key = principal
        # The session says which stores these are, and not which agent the key may act for.
        self._principal = replace(principal, agent_id=None, stores=None)
        self._owner = own
        self._own: AttachedStore | None = None
        self._mounts = {mount.name: mount for mount in mounts}
        self._agent_id = agent_id
        self._written_by = (actor, source)
        self._seen: dict[str, tuple[AttachedStore, Memory]] = {}

    async def carry_out(self, given: object) -> str:
        """Carry out a command as the model gave it, and return what it is told. Raises CommandRefused."""
        command = read_command(given)
        roots = {f"{ROOT}/{name}" for name in self._mounts}
        if isinstance(command, Delete) and command.path.rstrip("/") in roots:
            raise CommandRefused(f"Error: The directory {command.path} is a store of its own and cannot be deleted")
        if isinstance(command, Rename) and command.old_path.rstrip("/") in roots:
            raise CommandRefused(f"Error: The directory {command.old_path} is a store of its own and cannot be renamed")
        self._key.require_memory(self._owner.scope, write=False)
        store_id = await memory_stores.find_managed(self._connection, self._principal.tenant_id, self._owner)
        self._own = None if store_id is None else AttachedStore("", store_id, writable=True)
        steps = steps_of(command)
        try:
            call = next(steps)
            while True:
                try:
                    answer = await self._answer(call)
                except _REFUSALS as error:
                    call = steps.throw(error)
                else:
                    call = steps.send(answer)
        except StopIteration as end:
            return str(end.value)
        except _REFUSALS as error:
            raise CommandRefused(f"Error: {error.message}") from error

    async def _answer(self, call: Call) -> Any:
        given = call.arguments
        match call.method:
            case "list":
                return await self._list(given["path_prefix"], given.get("depth", 0), given.get("page"))
            case "retrieve":
                mount, memory = self._seen[given["memory_id"]]
                memory = await memories.get(self._connection, self._principal.tenant_id, mount.id, memory.id)
                return self._entry(mount, memory)
            case "create":
                return await self._create(given["path"], given["content"])
            case "update":
                return await self._update(**given)
            case _:
                return await self._delete(*self._seen[given["memory_id"]])

    async def _list(self, prefix: str, depth: int, page: str | None) -> Page:
        check_prefix(prefix)
        if prefix != "/":
            mount, inside = self._at(prefix)
            return Page([]) if mount is None else await self._page(mount, inside, depth, page)
        if depth == 0:
            return await self._all(page)
        names = sorted((f"/{name}/" for name in self._mounts), key=str.encode)
        own = Page([]) if self._own is None else await self._page(self._own, "/", depth, page)
        last = own.data[-1].path if own.next_page is not None else None
        between = [
            Entry("", name)
            for name in names
            if (page is None or name.encode() > page.encode()) and (last is None or name.encode() < last.encode())
        ]
        hidden = {name.rstrip("/") for name in names}
        shown = [entry for entry in own.data if entry.path.rstrip("/") not in hidden]
        return Page(sorted([*shown, *between], key=lambda entry: entry.path.encode()), own.next_page)

    async def _all(self, page: str | None) -> Page:
        """List everything, store by store."""
        stores = [*([] if self._own is None else [self._own]), *self._mounts.values()]
        number, _, after = (page or "0 ").partition(" ")
        at = int(number)
        if at >= len(stores):
            return Page([])
        found = await self._page(stores[at], "/", 0, after or None)
        more = f"{at} {found.next_page}" if found.next_page is not None else f"{at + 1} "
        shown = [entry for entry in found.data if stores[at].name or self._at(entry.path)[0] == self._own]
        return Page(shown, more if found.next_page is not None or at + 1 < len(stores) else None)

    async def _page(self, mount: AttachedStore, prefix: str, depth: int, after: str | None) -> Page:
        if after is not None and mount.name:
            after = after.removeprefix(f"/{mount.name}")
        found = await memories.page(
            self._connection,
            self._principal.tenant_id,
            mount.id,
            prefix=prefix,
            depth=depth,
            after=after,
            limit=PAGE + 1,
        )
        entries = [
            Entry("", self._outer(mount, entry)) if isinstance(entry, str) else self._entry(mount, entry)
            for entry in found[:PAGE]
        ]
        return Page(entries, entries[-1].path if len(found) > PAGE else None)

    async def _create(self, path: str, content: str) -> Entry:
        check_path(path)
        mount, inside = self._at(path)
        if inside == "/" or path.removeprefix("/") in self._mounts:
            raise MemoryPathConflict(path, conflicting_path=path, conflicting_memory_id="")
        if mount is None:
            self._key.require_memory(self._owner.scope, write=True)
            store_id = await memory_stores.managed(self._connection, self._principal.tenant_id, self._owner, now())
            mount = self._own = AttachedStore("", store_id, writable=True)
        self._refuse_read_only(mount)
        try:
            memory = await create_document(
                self._connection, self._principal, mount.id, inside, content, agents=[self._agent_id], **self._by()
            )
        except MemoryPathConflict as error:
            details = error.details or {}
            raise MemoryPathConflict(
                path,
                conflicting_path=self._outer(mount, details["conflicting_path"]),
                conflicting_memory_id=details["conflicting_memory_id"],
            ) from error
        return self._entry(mount, memory)

    async def _update(
        self, memory_id: str, *, content: str | None = None, path: str | None = None, precondition: Any = None
    ) -> Entry:
        mount, memory = self._seen[memory_id]
        self._refuse_read_only(mount)
        inside = None
        if path is not None:
            target, inside = self._at(check_path(path))
            if target != mount:
                return await self._move(mount, memory, path)
        memory = await update_document(
            self._connection,
            self._principal,
            mount.id,
            memory.id,
            content=content,
            path=inside,
            expect_sha256=None if precondition is None else precondition["content_sha256"],
            agents=[self._agent_id],
            **self._by(),
        )
        return self._entry(mount, memory)

    async def _move(self, mount: AttachedStore, memory: Memory, path: str) -> Entry:
        """Move a file from one store to another: it is made there and deleted here."""
        if memory.block is not None:
            raise InvalidRequest(f"{memory.path} is a block of the agent's and stays where it is.", param="path")
        moved = await self._create(path, memory.content)
        await delete_document(
            self._connection,
            self._principal,
            mount.id,
            memory.id,
            expect_sha256=memory.content_sha256,
            **self._by(),
        )
        return moved

    async def _delete(self, mount: AttachedStore, memory: Memory) -> None:
        self._refuse_read_only(mount)
        await delete_document(self._connection, self._principal, mount.id, memory.id, expect_sha256=None, **self._by())

    def _at(self, path: str) -> tuple[AttachedStore | None, str]:
        """Return the store that a path is in, None for the own one that is not there yet, and the path in it."""
        name, _, rest = path.removeprefix("/").partition("/")
        mount = self._mounts.get(name)
        return (self._own, path) if mount is None else (mount, f"/{rest}")

    def _outer(self, mount: AttachedStore, inside: str) -> str:
        return f"/{mount.name}{inside}" if mount.name else inside

    def _entry(self, mount: AttachedStore, memory: Memory) -> Entry:
        name = ids.encode("mem", memory.id)
        self._seen[name] = (mount, memory)
        return Entry(name, self._outer(mount, memory.path), memory.content, memory.content_sha256, memory.content_bytes)

    def _by(self) -> dict[str, Any]:
        actor, source = self._written_by
        return {"actor": actor, "source": source}

    def _refuse_read_only(self, mount: AttachedStore) -> None:
        if not mount.writable:
            raise Forbidden(f"{ROOT}/{mount.name} is attached to this session to be read, and cannot be written.")
        if not mount.name:
            self._key.require_memory(self._owner.scope, write=True)
        elif self._key.stores is not None and self._key.stores.access(mount.id, None) != "read_write":
            raise Forbidden(f"The key that this call was made with may not write to {ROOT}/{mount.name}.")
