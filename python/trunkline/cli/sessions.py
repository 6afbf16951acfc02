from __future__ import annotations

import json
from typing import Annotated

import typer

from trunkline.cli.output import AsJson, print_json, print_table

app = typer.Typer(help="What was said.", no_args_is_help=True)


@app.command("list")
def list_sessions(
    *,
    agent: Annotated[str | None, typer.Option(help="Only of this agent (name or id).")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most, newest first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List sessions, newest first."""
    from trunkline.client import Trunkline

    with Trunkline() as client:
        sessions = client.sessions.list(agent_id=agent, limit=limit)
    if as_json:
        print_json([session.to_json() for session in sessions])
        return
    rows = [
        (s.id, s.status, (s.agent or {}).get("name"), s.user_id, s.title, f"{s.updated_at:%Y-%m-%d %H:%M}")
        for s in sessions
    ]
    print_table(("ID", "STATUS", "AGENT", "USER", "TITLE", "UPDATED"), rows, empty="No sessions yet.")


@app.command("show")
def show(
    session: Annotated[str, typer.Argument(help="The session's id (sesn_…).")], *, as_json: AsJson = False
) -> None:
    """Show a session's events, oldest first."""
    from trunkline.client import Trunkline

    with Trunkline() as client:
        head = client.sessions.get(session)
        events = client.sessions.events(session)
    if as_json:
        print_json({"session": head.to_json(), "events": [event.to_json() for event in events]})
        return
    print(f"{head.id}  {head.status}  agent {(head.agent or {}).get('name', '?')}  user {head.user_id or '-'}")
    for event in events:
        members = event.model_extra or {}
        said = event.text() or " ".join(
            json.dumps(members[name], ensure_ascii=False) for name in ("name", "input", "error") if name in members
        )
        print(f"{event.type:<24} {said}".rstrip())


@app.command("fork")
def fork(
    session: Annotated[str, typer.Argument(help="The session's id (sesn_…).")],
    *,
    at: Annotated[
        int | None, typer.Option(min=0, help="The number of the last event that both share; default: the last.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Start a session that goes on from the end of another, or from one of its events."""
    from trunkline.client import Trunkline

    with Trunkline() as client:
        forked = client.sessions.fork(session, at=at)
    if as_json:
        print_json(forked.to_json())
        return
    print(f"{forked.id}  {forked.status}, forked from {session} at event {forked.last_seq if at is None else at}")
