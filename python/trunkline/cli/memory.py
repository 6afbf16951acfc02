from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from trunkline.cli import memory_files, memory_proposals
from trunkline.cli.output import AsJson, print_json, print_table
from trunkline.errors import InvalidRequest

_TURNS_AT_ONCE: Final = 2000

app = typer.Typer(help="What an agent knows: its blocks and their history.", no_args_is_help=True)
app.command("export")(memory_files.export)
app.command("import")(memory_files.import_)
app.command("proposals")(memory_proposals.proposals)
app.command("approve")(memory_proposals.approve)
app.command("reject")(memory_proposals.reject)

Agent = Annotated[str, typer.Argument(help="The agent's name or id.")]
User = Annotated[str | None, typer.Option("--user", "-u", help="Whose memory, for blocks of scope user.")]
Session = Annotated[str | None, typer.Option("--session", "-s", help="Which session's, for blocks of scope session.")]


@app.command("show")
def show(agent: Agent, *, user: User = None, session: Session = None, as_json: AsJson = False) -> None:
    """Show the blocks as a model call reads them."""
    from trunkline.client import Trunkline

    with Trunkline() as client:
        blocks = client.memory.get(agent, user_id=user, session_id=session)
    if as_json:
        print_json([block.to_json() for block in blocks])
        return
    for block in blocks:
        print(f"{block.block}  (scope {block.scope}, version {block.version or 0})")
        print("".join(f"  {line}\n" for line in block.rendered.splitlines()))
    if not blocks:
        print(f"{agent} has no blocks: declare some under `memory.blocks`.")


@app.command("set")
def set_field(
    agent: Agent,
    field: Annotated[str, typer.Argument(metavar="BLOCK.FIELD", help="For example customer.name.")],
    value: Annotated[str, typer.Argument(help="JSON, or text as it stands.")],
    *,
    op: Annotated[str, typer.Option(help="set, append, remove or merge.")] = "set",
    expect_sha256: Annotated[str | None, typer.Option(help="Refuse if the block's content has another hash.")] = None,
    user: User = None,
    session: Session = None,
    as_json: AsJson = False,
) -> None:
    """Write a field of a block."""
    from trunkline.client import Trunkline

    block, dot, name = field.partition(".")
    if not dot or not block or not name:
        raise InvalidRequest(f"{field!r}: expected BLOCK.FIELD, for example customer.name.")
    operation: dict[str, Any] = {"op": op, "field": name, "value": _value(value)}
    if expect_sha256 is not None:
        operation["expect_sha256"] = expect_sha256
    with Trunkline() as client:
        after = client.memory.operations(agent, block, [operation], user_id=user, session_id=session)
    if as_json:
        print_json(after.to_json())
    else:
        print(after.rendered)


@app.command("history")
def history(
    agent: Agent,
    block: Annotated[str, typer.Argument(help="The block's name.")],
    *,
    user: User = None,
    session: Session = None,
    as_json: AsJson = False,
) -> None:
    """Show who wrote a block, when and how, newest first."""
    from trunkline.client import Trunkline

    with Trunkline() as client:
        versions = client.memory.history(agent, block, user_id=user, session_id=session)
    if as_json:
        print_json([version.to_json() for version in versions])
        return
    rows = [
        (
            v.version,
            f"{v.created_at:%Y-%m-%d %H:%M:%S}",
            f"{v.actor.type} {v.actor.id}",
            describe(v.operations),
            v.event_id,
        )
        for v in versions
    ]
    print_table(("VERSION", "WHEN", "WHO", "OPERATIONS", "EVENT"), rows, empty=f"Nobody has written {block} yet.")


@app.command("ingest")
def ingest(
    store: Annotated[str, typer.Argument(help="The store's id, memstore_….")],
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help=".jsonl of turns, .md, or text.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Keep a file in a store, for recall: turns, one JSON object a line, or a document.

    A turn has `text`, and may have `role`, `speaker`, `time`, `session`, `id`, `tags`, `metadata`. A file that is given
    again is kept once; a document that has changed takes the place of what was kept under its name.
    """
    from trunkline.client import Trunkline

    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{file} is not UTF-8: byte {error.start} is invalid.") from error
    passages = added = 0
    with Trunkline() as client:
        if file.suffix in (".jsonl", ".ndjson"):
            turns = [_turn(file, number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
            for start in range(0, len(turns), _TURNS_AT_ONCE):
                done = client.memory_stores.ingest(store, turns=turns[start : start + _TURNS_AT_ONCE])
                passages, added = passages + done.passages, added + done.added
        else:
            kind = "markdown" if file.suffix in (".md", ".markdown") else "text"
            document = {"text": text, "format": kind, "id": file.name, "title": file.stem}
            done = client.memory_stores.ingest(store, documents=[document])
            passages, added = done.passages, done.added
    if as_json:
        print_json({"passages": passages, "added": added})
    else:
        print(f"{passages} passages, {added} of them new")


@app.command("embed-status")
def embed_status(
    store: Annotated[str, typer.Argument(help="The store's id, memstore_….")], *, as_json: AsJson = False
) -> None:
    """Show how far the embeddings of a store are, and what is in their way."""
    from trunkline.client import Trunkline

    with Trunkline() as client:
        found = client.memory_stores.embeddings(store)
    if as_json:
        print_json(found.to_json())
        return
    change = f", changing to {found.next_model}" if found.next_model else ""
    print(f"searched by {found.model or 'words alone'}{change}{', with an index' if found.indexed else ''}")
    print(f"{found.embedded} of {found.passages} passages embedded, {found.waiting} waiting, {found.failing} failing")
    if found.fault:
        print(f"{found.fault}: {found.message}")


@app.command("erase")
def erase(
    *,
    user: Annotated[str | None, typer.Option("--user", "-u", help="Erase all that is kept of this user.")] = None,
    session: Annotated[str | None, typer.Option("--session", "-s", help="Erase this session and its forks.")] = None,
    store: Annotated[str | None, typer.Option("--store", help="Erase in this store alone, by what follows.")] = None,
    path_prefix: Annotated[str | None, typer.Option(help="In the store: memories below it, such as /notes/.")] = None,
    since: Annotated[datetime | None, typer.Option(help="In the store: from this time on, UTC.")] = None,
    before: Annotated[datetime | None, typer.Option(help="In the store: before this time, UTC.")] = None,
    everything: Annotated[bool, typer.Option("--everything", help="In the store: all that is in it.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for the id again.")] = False,
    as_json: AsJson = False,
) -> None:
    """Erase a user or a session for good: sessions, memory and its history, passages, stored bodies, kept answers.

    Or, with --store, of one store: memories below a path, passages of --session, what is of a time, or everything.
    """
    from trunkline.client import Trunkline

    whose = store or user or session
    part = {"path_prefix": path_prefix, "since": _utc(since), "before": _utc(before), "everything": everything or None}
    if whose is None or (user is not None and (session is not None or store is not None)):
        raise InvalidRequest("Give one of --user ID, --session ID and --store ID.")
    if store is None and any(part.values()):
        raise InvalidRequest("--path-prefix, --since, --before and --everything are for --store.")
    if not yes:
        typed = typer.prompt(f"This cannot be undone. Type {whose} again to erase it", err=True)
        if typed != whose:
            raise InvalidRequest(f"{typed!r} is not {whose!r}: nothing was erased.")
    with Trunkline() as client:
        if store is None:
            done = client.erase(user_id=user, session_id=session)
        else:
            done = client.memory_stores.erase(store, session_id=session, **part)
    if as_json:
        print_json(done.to_json())
    else:
        print("".join(f"{count:8} {kind.replace('_', ' ')}\n" for kind, count in done.erased.items()), end="")


def describe(operations: tuple[dict[str, Any], ...] | None) -> str:
    """Return block operations as a person reads them: `set name "Ada"; append recent_purchases "kettle"`."""
    if operations is None:
        return "whole content"
    return "; ".join(
        " ".join(
            [op["op"], _path(op["field"]), *([json.dumps(op["value"], ensure_ascii=False)] if "value" in op else [])]
        )
        for op in operations
    )


def _path(field: str | list[str]) -> str:
    return field if isinstance(field, str) else ".".join(field)


def _turn(file: Path, number: int, line: str) -> dict[str, Any]:
    try:
        turn = json.loads(line)
    except ValueError as error:
        raise InvalidRequest(f"{file}, line {number}: not JSON: {error}.") from error
    if not isinstance(turn, dict):
        raise InvalidRequest(f"{file}, line {number}: expected an object, with `text`.")
    return turn


def _utc(time: datetime | None) -> datetime | None:
    return None if time is None else time.replace(tzinfo=UTC)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
