"""What a gateway records of calls, written as it writes them, and what tables hold of it."""

from __future__ import annotations

import hashlib
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from support.postgres import DatabaseUrls

RECORD = (
    "select trunkline.gateway_record(array(select r from jsonb_populate_recordset(null::trunkline.call_row, %s) as r))"
)


def first_key(database: DatabaseUrls) -> tuple[UUID, UUID]:
    """Return the tenant and id of the key that was made first."""
    with psycopg.connect(database.admin_url) as admin:
        row = admin.execute("select tenant_id, id from trunkline.api_keys order by created_at limit 1").fetchone()
    assert row is not None
    return row[0], row[1]


def rows_with(database: DatabaseUrls, word: str) -> dict[str, int]:
    """Count the rows that have a word anywhere, by table, over all tables there are."""
    with psycopg.connect(database.admin_url) as admin:
        names = admin.execute(
            "select relname from pg_class c join pg_namespace n on n.oid = c.relnamespace "
            "where n.nspname = 'trunkline' and c.relkind in ('r', 'p') and not c.relispartition order by 1"
        ).fetchall()
        counts: dict[str, int] = {}
        for (name,) in names:
            count = sql.SQL(
                "select count(*) from trunkline.{} t where strpos(t::text, %s) > 0 or strpos(t::text, %s) > 0"
            )
            row = admin.execute(count.format(sql.Identifier(name)), (word, word.encode().hex())).fetchone()
            assert row is not None
            if row[0]:
                counts[name] = row[0]
        return counts


def said(
    database: DatabaseUrls,
    key: tuple[UUID, UUID],
    agent: str,
    user: str,
    word: str,
    *,
    day: str = "2026-11-20",
    follows: str | None = None,
) -> str:
    """Have a gateway record a call of a user who says a word, with its bodies and answers kept; return the session.

    `follows` is the session that it goes on with, else it begins one.
    """
    (tenant, key_id), call = key, uuid4()
    session = uuid4() if follows is None else UUID(follows.removeprefix("sesn_"))

    def event(role: str, kind: str) -> dict[str, Any]:
        text = f"{role} tells of {word}"
        payload = {"content": [{"type": "text", "text": text}]}
        made = {"id": str(uuid4()), "type": kind, "payload": payload}
        return {"chain": chain(role), "role": role, "text": text, "events": [made]}

    def chain(role: str) -> str:
        return hashlib.sha256(f"{session}{role}".encode()).hexdigest()

    turn = {
        "session": str(session),
        "fork": str(uuid4()),
        "forks": False,
        "store": str(uuid4()),
        "agent": str(UUID(agent.removeprefix("agent_"))),
        "agent_version": 1,
        "user": user,
        "prefix": None if follows is None else chain("assistant"),
        "remember": True,
        "messages": [event("user", "user.message"), event("assistant", "agent.message")],
        "after": [
            {"id": str(uuid4()), "type": "session.status_idle", "payload": {"stop_reason": {"type": "end_turn"}}}
        ],
    }
    body = {"text": word, "bytes": len(word), "truncated": False}
    row = {
        "tenant": str(tenant),
        "call": str(call),
        "at": f"{day}T10:00:00Z",
        "key": str(key_id),
        "agent": turn["agent"],
        "session": str(session),
        "user_id": user,
        "model": "m",
        "wire": "openai_chat",
        "stream": False,
        "status": 200,
        "source": "provider",
        "cost_usd": 0.25,
        "estimated": False,
        "turn": turn,
        "bodies": {"request": body, "response": body, "keep_days": 3650},
    }
    numbers = ("input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens")
    row |= dict.fromkeys((*numbers, "rounds", "retries", "total_us", "overhead_us"), 1)
    answer = hashlib.sha256(call.bytes).digest()
    row["idempotency"] = {"key": answer.hex(), "answer": {"status": 200, "body": word}}
    with psycopg.connect(database.gateway_url) as gateway:
        gateway.execute(
            "select * from trunkline.gateway_idempotency_begin(%s, %s, %s, %s, %s, %s, 60000)",
            (tenant, key_id, answer, answer, call, uuid4()),
        )
        gateway.execute(RECORD, (Jsonb([row]),))
        gateway.execute(
            "select trunkline.gateway_cache_put(%s, %s, %s, 'text/plain', 'u', %s, 3600000)",
            (tenant, answer, call, word.encode()),
        )
    return f"sesn_{session.hex}"
