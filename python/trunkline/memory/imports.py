"""A file of a store's lines (`domain/memory_file.py`) into a store: all of it, or nothing.

Ids are the file's, so that what is there already is left as it is, and a file that is given again changes nothing;
where something else stands under an id the file is refused. The caller's transaction holds the store's lock.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, TypeVar

from pydantic import ValidationError

from trunkline.domain import ids
from trunkline.domain.memory import MAX_CONTENT_BYTES, MemoryStore, sha256
from trunkline.domain.memory_file import (
    FORMAT,
    LINE,
    ORDER,
    STATES,
    BlockLine,
    EndLine,
    HeaderLine,
    Line,
    MemoryLine,
    PassageLine,
    States,
    VersionLine,
    moment,
    optional_uuid,
    uuid,
)
from trunkline.domain.principal import Principal
from trunkline.domain.redaction import Redactor
from trunkline.errors import Conflict, InvalidRequest, TrunklineError
from trunkline.memory.blocks import stored_block
from trunkline.memory.documents import block_value, declared_at
from trunkline.memory.paths import check_path
from trunkline.memory.render import parts, render
from trunkline.memory.states import CLOCK_SKEW
from trunkline.memory.values import canonical, check_value
from trunkline.store import imports, memories, passages, redaction
from trunkline.store.imports import Row
from trunkline.store.pool import Connection

Ids = Literal["keep", "new"]
"""`new`: of memories and versions ids of this store's own, always the same for the same file."""

_BATCH: Final = 500
_OPERATION_KEYS: Final = frozenset({"op", "field"})
L = TypeVar("L", bound=Line)
Numbered = tuple[int, L]


@dataclass(slots=True)
class Imported:
    """How many of each kind were in the file, and how many of them were not there before."""

    given: dict[str, int] = field(default_factory=lambda: {"versions": 0, "memories": 0, "passages": 0})
    added: dict[str, int] = field(default_factory=lambda: {"versions": 0, "memories": 0, "passages": 0})


def read(lines: Iterable[tuple[int, Any]], *, whole: bool) -> Iterator[Numbered[Line]]:
    """Yield the lines of a file, from JSON values with their numbers; unless it is `whole`, it may lack its end.

    Raises InvalidRequest with the line's number for what is none, out of order, or cut off.
    """
    before: type[Line] | None = None
    for count, (number, value) in enumerate(lines):
        line = _parsed(number, value)
        if (before is None) != isinstance(line, HeaderLine):
            raise _bad(number, "the first line, and no other, is the header")
        if before is EndLine:
            raise _bad(number, "comes after the end")
        if before is not None and ORDER.index(type(line)) < ORDER.index(before):
            raise _bad(number, f"a {line.type} comes after what follows it; the order is that of the export")
        if isinstance(line, HeaderLine) and line.format != FORMAT:
            raise _bad(number, f"the file has format {line.format}; this Trunkline reads format {FORMAT}")
        if isinstance(line, EndLine) and whole and line.lines != count:
            raise _bad(number, f"counts {line.lines} lines before it, and there are {count}; the file was changed")
        before = type(line)
        yield number, line
    if before is None:
        raise InvalidRequest("The file is empty; give what `export` wrote.")
    if whole and before is not EndLine:
        raise InvalidRequest("The file has no last line of type `end`: it was cut off. Export it again.")


async def put(
    connection: Connection,
    principal: Principal,
    store: MemoryStore,
    lines: Iterator[Numbered[Line]],
    *,
    at: datetime,
    new_ids: bool = False,
) -> Imported:
    """Write the lines after the header into a store. Raises InvalidRequest and Conflict with the line's number."""
    writing = _Writing(connection, principal, store, at, new_ids)
    writing.redactor = await redaction.of(connection, principal.tenant_id, store.id)
    some: list[Numbered[Line]] = []
    for number, line in lines:
        if isinstance(line, HeaderLine | BlockLine | EndLine):
            continue
        if some and (type(some[0][1]) is not type(line) or len(some) == _BATCH):
            await writing.add(some)
            some = []
        some.append((number, line if writing.redactor is None else _redacted(number, line, writing.redactor)))
    if some:
        await writing.add(some)
    return writing.done


class _Writing:
    """One import into one store."""

    def __init__(
        self, connection: Connection, principal: Principal, store: MemoryStore, at: datetime, new_ids: bool
    ) -> None:
        self._connection = connection
        self._principal = principal
        self._store = store
        self._latest = at + CLOCK_SKEW
        self._new_ids = new_ids
        self.redactor: Redactor | None = None
        self._paths: set[str] | None = None
        self._above: set[str] = set()
        self.done = Imported()

    async def add(self, some: list[Numbered[Line]]) -> None:
        versions = [(number, line) for number, line in some if isinstance(line, VersionLine)]
        memories_ = [(number, line) for number, line in some if isinstance(line, MemoryLine)]
        texts = [(number, line) for number, line in some if isinstance(line, PassageLine)]
        if versions:
            await self._add_versions(versions)
        if memories_:
            await self._add_memories(memories_)
        if texts:
            await self._add_passages(texts)

    async def _add_versions(self, some: list[Numbered[VersionLine]]) -> None:
        rows = [self._version(number, line) for number, line in some]
        await self._refuse_foreign(some, [row["memory_id"] for row in rows], [row["id"] for row in rows])
        found = await imports.versions(self._connection, self._principal.tenant_id, self._store.id, rows)
        by_id = {str(row["id"]): row for row in found}
        by_number = {(str(row["memory_id"]), row["version"]): str(row["id"]) for row in found}
        fresh: list[Row] = []
        for (number, line), row in zip(some, rows, strict=True):
            there = by_id.get(row["id"])
            other = by_number.get((row["memory_id"], row["version"]))
            if other not in (None, row["id"]) or (there is not None and not _same_version(there, row, line)):
                raise _taken(number, f"another version {line.version} of {line.memory_id} is there")
            if there is None:
                by_id[row["id"]] = {**row, "redacted_at": line.redacted_at, "created_at": line.created_at}
                by_number[row["memory_id"], row["version"]] = row["id"]
                fresh.append(row)
        await imports.add(self._connection, self._principal.tenant_id, self._store.id, "versions", fresh)
        self._count("versions", some, fresh)

    async def _add_memories(self, some: list[Numbered[MemoryLine]]) -> None:
        tenant_id = self._principal.tenant_id
        wanted = [self._id("mem", line.id) for _, line in some]
        written = [self._id("memver", line.version_id) for _, line in some]
        await self._refuse_foreign(some, wanted, written)
        there = await imports.lock_memories(self._connection, tenant_id, self._store.id, wanted)
        numbers = await imports.last_versions(self._connection, tenant_id, self._store.id, wanted)
        of = [
            {"id": version_id, "memory_id": memory_id, "version": line.version}
            for memory_id, version_id, (_, line) in zip(wanted, written, some, strict=True)
        ]
        found = await imports.versions(self._connection, tenant_id, self._store.id, of)
        versions = {str(row["id"]): row for row in found}
        fresh: list[Row] = []
        for (number, line), memory_id, version_id in zip(some, wanted, written, strict=True):
            if memory_id in there:
                stands = there[memory_id]
                if str(stands["version_id"]) != version_id or stands["content_sha256"] != line.content_sha256:
                    raise _taken(
                        number,
                        f"{stands['path']} was written since: it is at version {stands['version']} here, and at "
                        f"{line.version} in the file",
                    )
                continue
            version = versions.get(version_id)
            if version is None or not _is_of(version, memory_id, line):
                raise _bad(
                    number, f"version {line.version}, which wrote it, is not in the file, or says something else"
                )
            if numbers.get(memory_id) != line.version:
                raise _bad(number, f"its last version has the number {numbers.get(memory_id)}, not {line.version}")
            await self._take_path(number, line.path)
            fresh.append(await self._memory(number, line, memory_id, version_id))
        await imports.add(self._connection, tenant_id, self._store.id, "memories", fresh)
        self._count("memories", some, fresh)

    async def _add_passages(self, some: list[Numbered[PassageLine]]) -> None:
        tenant_id = self._principal.tenant_id
        rows = [self._passage(number, line) for number, line in some]
        sessions = sorted({row["session_id"] for row in rows if row["session_id"] is not None})
        await passages.lock_sessions(self._connection, self._store.id, sessions)
        there = await imports.passages(self._connection, tenant_id, self._store.id, [row["id"] for row in rows])
        fresh: list[Row] = []
        for (number, line), row in zip(some, rows, strict=True):
            stands = there.get(row["id"])
            # A long one is kept in parts, the first of them under its id.
            if stands is not None and not row["content"].startswith(stands):
                raise _taken(number, f"another text is there as {line.id}")
            if stands is None:
                there[row["id"]] = row["content"]
                fresh.append(row)
        await imports.add(self._connection, tenant_id, self._store.id, "passages", fresh)
        self._count("passages", some, fresh)

    def _version(self, number: int, line: VersionLine) -> Row:
        said = line.content is not None
        if said == (line.operation == "deleted" or line.redacted_at is not None):
            raise _bad(number, "a version has a content, unless it is a deletion or was redacted")
        if (line.redacted_at is None) != (line.redacted_by is None):
            raise _bad(number, "redacted_at and redacted_by belong together")
        if line.redacted_at is not None and (line.path, line.states, line.operations) != (None, None, None):
            raise _bad(number, "a redacted version says nothing")
        if line.redacted_at is None and line.path is None:
            raise _bad(number, "path is missing")
        self._check_times(number, line.created_at, line.redacted_at)
        with _at(number):
            if line.path is not None:
                check_path(line.path)
            check_value(line.operations, "operations")
            if line.block and line.content is not None:
                _block_content(line.content)
        if any(not keys >= _OPERATION_KEYS for keys in map(dict.keys, line.operations or [])) and not all(
            operation.get("op") == "restore" for operation in line.operations or []
        ):
            raise _bad(number, "each of the operations has op and field")
        _check_digest(number, line.content, line.content_sha256)
        return {
            "id": self._id("memver", line.id),
            "memory_id": self._id("mem", line.memory_id),
            "version": line.version,
            "operation": line.operation,
            "operations": line.operations,
            "path": line.path,
            "content": line.content,
            "content_sha256": line.content_sha256,
            "block": line.block,
            "states": self._states(number, line.states),
            "actor_type": line.actor.type,
            "actor_id": line.actor.id,
            "session_id": optional_uuid(line.session_id),
            "event_id": optional_uuid(line.event_id),
            "created_at": moment(line.created_at),
            "redacted_at": moment(line.redacted_at),
            "redacted_by": line.redacted_by,
        }

    async def _memory(self, number: int, line: MemoryLine, memory_id: str, version_id: str) -> Row:
        self._check_times(number, line.created_at, line.updated_at)
        if line.updated_at < line.created_at:
            raise _bad(number, "updated_at is before created_at")
        _check_digest(number, line.content, line.content_sha256)
        row: Row = {
            "id": memory_id,
            "path": line.path,
            "content": line.content,
            "content_sha256": line.content_sha256,
            "block": line.block,
            "version": line.version,
            "version_id": version_id,
            "created_at": moment(line.created_at),
            "updated_at": moment(line.updated_at),
        }
        with _at(number):
            declared = await declared_at(self._connection, self._principal, self._store, line.path)
        if (declared and declared.name) != line.block:
            raise _bad(
                number,
                f"{line.path} is the block {line.block}, which only the store of an agent that declares it can hold; "
                "import the file into that agent's memory"
                if line.block is not None
                else f"{line.path} belongs to a block in this store, and the file has a text there",
            )
        if declared is None:
            if line.states is not None:
                raise _bad(number, "states are a block's, and this is a text")
            return row
        definition = stored_block(declared)
        await memories.lock_new_path(self._connection, self._store.id, declared.name)
        with _at(number):
            value = block_value(definition, line.content)
        if canonical(value) != line.content:
            raise _bad(number, "the content of a block is JSON with sorted keys and no spaces, as it was exported")
        states = self._states(number, line.states) or {}
        if not states.keys() <= value.keys():
            raise _bad(number, "has a state for a field without a value")
        rendered = render(definition, value, states, self._latest - CLOCK_SKEW)
        return row | {
            "states": states,
            "rendering": parts(value, states),
            "rendered": rendered.text,
            "rendered_tokens": rendered.tokens,
            "rendered_for": declared.digest,
            "render_again_at": moment(rendered.again_at),
        }

    def _passage(self, number: int, line: PassageLine) -> Row:
        self._check_times(number, line.created_at)
        if line.session_id is not None and line.document_id is not None:
            raise _bad(number, "a passage is of a session or of a document, not of both")
        with _at(number):
            check_value(dict(line.metadata), "metadata")
        return {
            "id": str(uuid(line.id)),
            "session_id": optional_uuid(line.session_id),
            "event_id": optional_uuid(line.event_id),
            "document_id": None if line.document_id is None else str(line.document_id),
            "role": line.role,
            "content": line.text,
            "tags": line.tags,
            "metadata": line.metadata,
            "created_at": moment(line.created_at),
        }

    def _states(self, number: int, states: States | None) -> States | None:
        """Check what is said of fields, and name versions by the ids that they get here."""
        if states is None:
            return None
        try:
            STATES.validate_python(states)
        except ValidationError as error:
            raise _bad(number, f"states.{_first(error)}") from error
        with _at(number):
            check_value(states, "states")
        if not self._new_ids:
            return states
        return {name: self._renamed(state) for name, state in states.items()}

    def _renamed(self, state: dict[str, Any]) -> dict[str, Any]:
        renamed = state | {"version_id": f"memver_{self._id('memver', state['version_id']).replace('-', '')}"}
        if "against" in state:
            renamed["against"] = [self._renamed(other) for other in state["against"]]
        return renamed

    async def _take_path(self, number: int, path: str) -> None:
        """Refuse a path at which, above which or below which there is a memory."""
        if self._paths is None:
            there = await imports.paths(self._connection, self._principal.tenant_id, self._store.id)
            self._paths = set(there)
            self._above = {above for taken in there for above in _above(taken)}
        with _at(number):
            check_path(path)
        if path in self._paths or path in self._above or any(above in self._paths for above in _above(path)):
            raise _taken(number, f"there is another memory at {path}, above it or below it")
        self._paths.add(path)
        self._above.update(_above(path))

    async def _refuse_foreign(self, some: list[Numbered[Any]], memory_ids: list[str], version_ids: list[str]) -> None:
        found = await imports.foreign(
            self._connection, self._principal.tenant_id, self._store.id, memory_ids, version_ids
        )
        for (number, line), memory_id, version_id in zip(some, memory_ids, version_ids, strict=True):
            if memory_id in found or version_id in found:
                raise _taken(number, f"{line.id} is in another store; import with ids=new to have a copy of it here")

    def _id(self, prefix: Literal["mem", "memver"], wire: str) -> str:
        given = uuid(wire)
        if not self._new_ids:
            return str(given)
        return str(ids.derived(b"import", prefix.encode(), self._store.id.bytes, given.bytes))

    def _check_times(self, number: int, *times: datetime | None) -> None:
        for time in times:
            if time is not None and time > self._latest:
                raise _bad(number, f"{time.isoformat()} is in the future")

    def _count(self, kind: str, some: list[Any], fresh: list[Row]) -> None:
        self.done.given[kind] += len(some)
        self.done.added[kind] += len(fresh)


class _at:  # noqa: N801 - reads as a word
    """Errors of what is done within are of this line."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, TrunklineError):
            raise InvalidRequest(f"Line {self._number}: {error.message}", param="line", code=error.code) from error


def _parsed(number: int, value: Any) -> Line:
    try:
        return LINE.validate_python(value)
    except ValidationError as error:
        raise _bad(number, _first(error)) from error


def _first(error: ValidationError) -> str:
    fault = error.errors(include_url=False, include_input=False)[0]
    kinds = {"header", "block", "version", "memory", "passage", "end"}
    place = ".".join(str(part) for part in fault["loc"] if part not in kinds)
    return f"{place}: {fault['msg']}" if place else str(fault["msg"])


def _same_version(there: Row, row: Row, line: VersionLine) -> bool:
    """Whether what stands is this version; one that was redacted since stays so."""
    if str(there["memory_id"]) != row["memory_id"] or there["version"] != line.version:
        return False
    if there["created_at"] != line.created_at:
        return False
    return there["redacted_at"] is not None or there["content_sha256"] == line.content_sha256


def _is_of(version: Row, memory_id: str, line: MemoryLine) -> bool:
    if str(version["memory_id"]) != memory_id or version["version"] != line.version:
        return False
    said = (version["path"], version["content_sha256"], version["created_at"])
    return version["redacted_at"] is not None or said == (line.path, line.content_sha256, line.updated_at)


def _check_digest(number: int, content: str | None, digest: str | None) -> None:
    if (content is None) != (digest is None) or (content is not None and sha256(content) != digest):
        raise _bad(number, "content_sha256 is not that of the content; the file was changed")
    if content is not None and len(content.encode()) > MAX_CONTENT_BYTES:
        raise _bad(number, f"the content is over {MAX_CONTENT_BYTES} bytes")


def _redacted(number: int, line: Line, redactor: Redactor) -> Line:
    """Return a line as it may be stored, its digest that of what is stored. Raises InvalidRequest: a path, a digest."""
    if isinstance(line, PassageLine):
        texts = {"text": redactor.text(line.text), "tags": redactor.value(line.tags)}
        return line.model_copy(update=texts | {"metadata": redactor.value(line.metadata)})
    if not isinstance(line, VersionLine | MemoryLine):
        return line
    _check_digest(number, line.content, line.content_sha256)
    with _at(number):
        if line.path is not None:
            redactor.refuse_in(line.path, "path")
        content = line.content
        if content is not None and line.block:
            _block_content(content)
            content = canonical(redactor.value(json.loads(content)))
        elif content is not None:
            content = redactor.text(content)
    update: dict[str, Any] = {"content": content, "states": redactor.value(line.states)}
    update["content_sha256"] = None if content is None else sha256(content)
    if isinstance(line, VersionLine):
        update["operations"] = redactor.value(line.operations)
    return line.model_copy(update=update)


def _block_content(content: str) -> None:
    """Raise InvalidRequest unless a version of a block says a JSON object that can be kept."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("the content of a block is JSON") from error
    check_value(value, "content")
    if not isinstance(value, dict):
        raise InvalidRequest("the content of a block is a JSON object")


def _above(path: str) -> list[str]:
    steps = path.split("/")
    return ["/".join(steps[:count]) for count in range(2, len(steps))]


def _bad(number: int, why: str) -> InvalidRequest:
    return InvalidRequest(f"Line {number}: {why}. Nothing was imported.", param="line")


def _taken(number: int, why: str) -> Conflict:
    return Conflict(f"Line {number}: {why}. Nothing was imported.", param="line", code="import_conflict")
