"""Teams."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from trunkline.domain import ids
from trunkline.domain.limits import Limits, Used
from trunkline.domain.principal import Principal
from trunkline.domain.teams import Team
from trunkline.errors import Conflict, NotFound
from trunkline.store import limits
from trunkline.store.pool import Connection
from trunkline.store.queries import queries


async def create(connection: Connection, tenant_id: UUID, team: Team) -> None:
    """Write a team and its limits. Raises Conflict when the name is taken."""
    cursor = await connection.execute(queries("teams")["insert_team"], (tenant_id, team.id, team.name, team.created_at))
    _named(await cursor.fetchone(), team)
    await _write_limits(connection, tenant_id, team)


async def change(connection: Connection, tenant_id: UUID, team: Team) -> None:
    """Write a team's name and limits anew. Raises Conflict when the name is taken."""
    cursor = await connection.execute(queries("teams")["update_team"], (tenant_id, team.id, team.name, team.updated_at))
    _named(await cursor.fetchone(), team)
    await _write_limits(connection, tenant_id, team)


async def get(connection: Connection, principal: Principal, name: str) -> Team:
    """Return a team by its id, or one in use by its name. Raises NotFound; a key for one agent finds none."""
    if principal.agent_id is not None:
        raise _not_found(name)
    team_id = ids.decode("team", name) if name.startswith("team_") else None
    cursor = await connection.execute(queries("teams")["select_team"], (principal.tenant_id, team_id, name))
    row = await cursor.fetchone()
    if row is None:
        raise _not_found(name)
    return _team(row)


async def page(
    connection: Connection, principal: Principal, after: tuple[datetime, UUID] | None, limit: int
) -> list[Team]:
    """Return up to `limit` teams in use, newest first, that come after the position; none to a key for one agent."""
    if principal.agent_id is not None:
        return []
    created_at, team_id = after or (None, None)
    cursor = await connection.execute(queries("teams")["list_teams"], (principal.tenant_id, created_at, team_id, limit))
    return [_team(row) for row in await cursor.fetchall()]


async def end(connection: Connection, tenant_id: UUID, team_id: UUID, at: datetime) -> None:
    """End a team and revoke its keys, for good."""
    await connection.execute(queries("teams")["end_team"], (tenant_id, team_id, at))


async def _write_limits(connection: Connection, tenant_id: UUID, team: Team) -> None:
    await limits.write(connection, tenant_id, ("team", str(team.id)), team.limits, team.updated_at)
    await limits.write(connection, tenant_id, ("users_of_team", str(team.id)), team.users, team.updated_at)


def _named(row: dict[str, Any] | None, team: Team) -> None:
    if row is None:
        raise Conflict(
            f"There is a team named {team.name!r} already; choose another name.", param="name", code="name_taken"
        )


def _team(row: dict[str, Any]) -> Team:
    own = ("id", "name", "created_at", "updated_at", "archived_at")
    return Team(
        **{name: row[name] for name in own},
        limits=Limits.from_row(row),
        users=Limits.from_json(row["users"]),
        used=Used.from_row(row),
    )


def _not_found(name: str) -> NotFound:
    shown = name if len(name) <= 80 else f"{name[:80]}…"
    return NotFound(f"There is no team {shown!r}; GET /v1/teams lists those there are.")
