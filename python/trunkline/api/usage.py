"""What model calls took and cost."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from fastapi import APIRouter, Query
from pydantic import AwareDatetime
from starlette.responses import JSONResponse

from trunkline.api.deps import Manager
from trunkline.api.paging import at_number, read_number
from trunkline.domain import ids
from trunkline.domain.usage import GROUPS, SUMS, Bucket, Group, UsageQuery, to_wire
from trunkline.errors import InvalidRequest
from trunkline.store import agents, keys, sessions, usage

router = APIRouter(prefix="/v1/usage", tags=["usage"])

Values = Annotated[list[str] | None, Query(description="given several times: any of these")]


@router.get("")
async def report(
    *,
    caller: Manager,
    group_by: Annotated[str | None, Query(description=f"names with commas between them: {', '.join(GROUPS)}")] = None,
    bucket: Bucket | None = None,
    key_id: str | None = None,
    team_id: str | None = None,
    agent_id: str | None = None,
    session_id: str | None = None,
    user_id: Values = None,
    model: Values = None,
    provider: Values = None,
    upstream_model: Values = None,
    wire: Values = None,
    status: Annotated[list[int] | None, Query()] = None,
    error_type: Values = None,
    stream: bool | None = None,
    estimated: bool | None = None,
    source: Annotated[list[Literal["provider", "cache", "replay"]] | None, Query()] = None,
    since: Annotated[AwareDatetime | None, Query(alias="from", description="inclusive")] = None,
    until: Annotated[AwareDatetime | None, Query(alias="to", description="exclusive")] = None,
    sort: Annotated[str | None, Query(description="a sum, or time; `-` before it: largest first")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    page: str | None = None,
) -> JSONResponse:
    """Add up the tenant's calls that match.

    Without `group_by` and `bucket` the answer is one object of sums; with them, a page of such objects with the names
    of their group, largest cost first or, with a bucket, in the order of time. `agent_id` may be a name. `cost_usd` is
    null where no price is known; times are means.
    """
    connection, principal = caller.connection, caller.principal
    filters: dict[str, list[str]] = {}
    if key_id is not None:
        filters["key_id"] = [str((await keys.get(connection, principal, ids.decode("key", key_id))).id)]
    if team_id is not None:
        filters["team_id"] = [str(ids.decode("team", team_id))]
    if agent_id is not None:
        filters["agent_id"] = [str((await agents.get(connection, principal, agent_id)).id)]
    if session_id is not None:
        session = ids.decode("sesn", session_id)
        await sessions.head(connection, principal, session)
        filters["session_id"] = [str(session)]
    named = {
        "user_id": user_id,
        "model": model,
        "provider": provider,
        "upstream_model": upstream_model,
        "wire": wire,
        "status": status,
        "error_type": error_type,
        "stream": None if stream is None else [stream],
        "estimated": None if estimated is None else [estimated],
        "source": source,
    }
    for name, values in named.items():
        if values is not None:
            filters[name] = [str(value) for value in values]
    by = _groups(group_by)
    if not by and bucket is None:
        (total,) = await usage.report(connection, principal, UsageQuery(filters=filters, since=since, until=until))
        return JSONResponse(to_wire(total))
    offset = read_number(page) or 0
    column, descending = _order(sort, bucket)
    wanted = UsageQuery(by, bucket, filters, since, until, column, descending, limit + 1, offset)
    rows = await usage.report(connection, principal, wanted)
    next_page = at_number(offset + limit) if len(rows) > limit else None
    return JSONResponse({"data": [to_wire(row) for row in rows[:limit]], "next_page": next_page})


def _groups(text: str | None) -> list[Group]:
    """Return the groups of `group_by`. Raises InvalidRequest."""
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    groups: list[Group] = [group for group in get_args(Group) if group in names]
    for name in names:
        if name not in GROUPS:
            raise InvalidRequest(
                f"Calls cannot be grouped by {name!r}; it may be {', '.join(GROUPS)}.", param="group_by"
            )
    return sorted(groups, key=names.index)


def _order(text: str | None, bucket: Bucket | None) -> tuple[str, bool]:
    """Return the column to sort by and whether the largest comes first. Raises InvalidRequest."""
    if text is None:
        return ("cost_usd", True) if bucket is None else ("time", False)
    name = text.removeprefix("-")
    if name not in (*SUMS, *(("time",) if bucket else ())):
        raise InvalidRequest(
            f"Usage cannot be sorted by {name!r}; it may be {', '.join(SUMS)}, or time with a bucket.", param="sort"
        )
    return name, name != text
