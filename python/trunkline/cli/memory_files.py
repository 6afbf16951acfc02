from __future__ import annotations

import contextlib
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from trunkline.cli.output import AsJson, print_json
from trunkline.errors import InvalidRequest, TrunklineError

if TYPE_CHECKING:
    from trunkline.client import ImportedAgentFile

Store = Annotated[str, typer.Argument(help="The store's id, memstore_….")]
Advance = Callable[[int], None]


def export(
    store: Store,
    *,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to a file, not to the output.")] = None,
) -> None:
    """Write a store as JSON Lines: its memories with every version, and its passages.

    `trunkline memory export memstore_… > store.jsonl`. The file is whole if its last line is of type "end".
    """
    from trunkline.client import Trunkline

    with contextlib.ExitStack() as stack:
        client = stack.enter_context(Trunkline(timeout_s=300))
        lines = client.memory_stores.export(store)
        first = next(lines)  # what is refused leaves no file behind
        out: IO[bytes] = sys.stdout.buffer if output is None else stack.enter_context(output.open("wb"))
        advance = stack.enter_context(_progress("exporting", None))
        for line in itertools.chain([first], lines):
            encoded = line.encode()
            out.write(encoded)
            advance(len(encoded))
        out.flush()


def import_(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="An export, or Letta's .af.")],
    *,
    store: Annotated[str | None, typer.Option("--store", help="Into this store; without it, into a new one.")] = None,
    agent: Annotated[str | None, typer.Option("--agent", "-a", help="Into the memory of this agent.")] = None,
    user: Annotated[str | None, typer.Option("--user", "-u", help="This user's.")] = None,
    session: Annotated[
        str | None, typer.Option("--session", "-s", help="Of the agent's memory: this session's.")
    ] = None,
    from_agent: Annotated[str | None, typer.Option(help="Of an agent file with several agents: this one.")] = None,
    declare: Annotated[bool, typer.Option("--declare", help="Have the agent declare an agent file's blocks.")] = False,
    new_ids: Annotated[bool, typer.Option("--new-ids", help="As a copy beside the store that it came from.")] = False,
    as_json: AsJson = False,
) -> None:
    """Read a file into a store, or into an agent's memory. What is there already is left as it is.

    Of an agent file of Letta's (.af), for --agent, its blocks and what was said; nothing of its tools and secrets.
    Up to 8 MiB it is all or nothing; a larger file goes in such parts, and is given again if it was broken off.
    """
    from trunkline.client import Trunkline

    if store is not None and agent is not None:
        raise InvalidRequest("Give --store or --agent, not both.")
    if file.suffix == ".af":
        if agent is None:
            raise InvalidRequest(f"{file} is an agent file: say into whose memory it goes, with --agent NAME.")
        with Trunkline(timeout_s=300) as client:
            taken = client.memory.import_agent_file(
                agent, _agent_file(file), user_id=user, session_id=session, from_agent=from_agent, declare=declare
            )
        _tell(agent, taken, as_json=as_json)
        return
    header = _header(file)
    if header.get("managed") and agent is None and store is None:
        raise InvalidRequest(
            f"{file} is the memory that an agent keeps for {header.get('scope')} {header.get('subject', '')}".rstrip()
            + ": say whose it becomes, with --agent NAME and, where it is a user's or a session's, --user or --session."
        )
    with Trunkline(timeout_s=300) as client, _progress("importing", file.stat().st_size) as advance:
        lines = _lines(file, advance)
        if agent is not None:
            done = client.memory.import_lines(agent, lines, user_id=user, session_id=session, new_ids=new_ids)
        elif store is not None:
            done = client.memory_stores.import_lines(store, lines, new_ids=new_ids)
        else:
            told = {key: header[key] for key in ("description", "metadata", "expire_after_days") if key in header}
            made = client.memory_stores.create(str(header.get("name") or file.stem), **told)
            try:
                done = client.memory_stores.import_lines(made, lines, new_ids=new_ids)
            except TrunklineError:
                client.memory_stores.delete(made)
                raise
    if as_json:
        print_json(done.to_json())
        return
    print(f"into {done.memory_store_id}")
    for kind, count in done.given.items():
        print(f"{count:8} {kind}, {done.added[kind]} of them new")


def _agent_file(file: Path) -> dict[str, Any]:
    try:
        given = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{file} is not JSON: {error}.") from error
    if not isinstance(given, dict):
        raise InvalidRequest(f"{file} is not an agent file: it holds no JSON object.")
    return given


def _tell(agent: str, done: ImportedAgentFile, *, as_json: bool) -> None:
    if as_json:
        print_json(done.to_json())
        return
    print(f"blocks: {', '.join(done.blocks) or 'none'}")
    if done.declared:
        print(f"declared by {agent} now: {', '.join(done.declared)}")
    if done.were_read_only:
        print(f"were read only, and the agent may write them here: {', '.join(done.were_read_only)}")
    print(f"{done.turns} turns and {done.documents} documents: {done.passages} passages, {done.added} of them new")
    if done.silent_messages:
        print(f"{done.silent_messages} messages say nothing to anybody and were left out")


def _header(file: Path) -> dict[str, Any]:
    """Return what the first line says of the store. Raises InvalidRequest where it is none, or the file was cut off."""
    try:
        with file.open(encoding="utf-8") as lines:
            line = json.loads(lines.readline())
        store = line["store"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidRequest(f"{file}, line 1: is not the header that `trunkline memory export` writes.") from error
    if not isinstance(store, dict):
        raise InvalidRequest(f"{file}, line 1: says nothing of the store.")
    with file.open("rb") as content:
        content.seek(max(0, file.stat().st_size - 1000))
        if not content.read().rstrip().rpartition(b"\n")[2].startswith(b'{"type":"end",'):
            raise InvalidRequest(f"{file} has no last line of type `end`: it was cut off. Export it again.")
    return store


def _lines(file: Path, advance: Advance) -> Iterator[str]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise InvalidRequest(f"{file}, line {number}: is not UTF-8: byte {error.start} is invalid.") from error
            advance(len(line))


@contextlib.contextmanager
def _bar(what: str, total: int | None) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda size: progress.advance(task, size)


def _progress(what: str, total: int | None) -> AbstractContextManager[Advance]:
    """Show how far it is, on a terminal; elsewhere nothing."""
    if sys.stderr.isatty():
        return _bar(what, total)
    return contextlib.nullcontext(lambda _size: None)
