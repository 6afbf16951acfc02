from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from typing import Any

from trunkline.client.transport import AsyncTransport, Transport, segment
from trunkline.client.wire import Wire


class Limits(Wire):
    """What a subject may use; None is not limited."""

    models: tuple[str, ...] | None = None
    """Names of models, or patterns with one `*`."""
    expires_at: datetime | None = None
    budget_usd: float | None = None
    budget_period: str | int = "total"
    """When the budget begins anew, in UTC: total (never), day, week, month, or a number of seconds."""
    rpm: int | None = None
    """Requests a minute."""
    tpm: int | None = None
    """Tokens a minute, input and output."""
    parallel: int | None = None
    """Calls under way at once."""


class Used(Limits):
    """Limits, and what was used under them."""

    spent_usd: float = 0
    requests: int = 0
    period_spent_usd: float = 0
    period_starts_at: datetime | None = None
    period_ends_at: datetime | None = None


class Team(Used):
    """A team: keys that share its limits."""

    id: str
    name: str
    users: Limits | None = None
    """The limits of each end user who comes with one of its keys."""
    created_at: datetime | None = None
    updated_at: datetime | None = None
    archived_at: datetime | None = None


class UserLimits(Used):
    """An end user with limits of their own."""

    user_id: str
    updated_at: datetime | None = None


def _body(limits: dict[str, Any]) -> dict[str, Any]:
    """Return limits as JSON; unknown names are the server's to refuse."""
    return {
        name: value.isoformat()
        if isinstance(value, datetime)
        else value.model_dump(mode="json")
        if isinstance(value, Limits)
        else value
        for name, value in limits.items()
    }


class Teams:
    """`client.teams`: keys that share limits; scope `manage`. A team is named by its id or its name.

    `limits` are the members of `Limits`, and `users`: the limits of each end user of the team.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, name: str, **limits: Any) -> Team:
        """Make a team: `create("crew", budget_usd=50, budget_period="month")`. Raises Conflict for a name in use."""
        return self._team("POST", "/v1/teams", {"name": name, **_body(limits)})

    def list(self) -> Iterator[Team]:
        """Yield the teams in use, the newest first."""
        return (Team.model_validate(item) for item in self._transport.pages("/v1/teams"))

    def get(self, team: str) -> Team:
        """Return a team. Raises NotFound."""
        return self._team("GET", f"/v1/teams/{segment(team)}")

    def update(self, team: str, **changes: Any) -> Team:
        """Change a team's `name` or limits: what is left out stays, None takes a limit away. Raises NotFound."""
        return self._team("POST", f"/v1/teams/{segment(team)}", _body(changes))

    def archive(self, team: str) -> Team:
        """End a team and revoke all its keys, for good. Raises NotFound."""
        return self._team("DELETE", f"/v1/teams/{segment(team)}")

    def _team(self, method: str, path: str, body: dict[str, Any] | None = None) -> Team:
        return Team.model_validate(self._transport.request(method, path, body=body))


class Users:
    """`client.users`: limits of end users, the people behind a key; scope `manage`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def set_limits(self, user_id: str, **limits: Any) -> UserLimits:
        """Set all limits of a user, in place of those before and of the defaults of keys and teams."""
        answer = self._transport.request("POST", "/v1/user_limits", body={"user_id": user_id, **_body(limits)})
        return UserLimits.model_validate(answer)

    def limits(self, user_id: str | None = None) -> Iterator[UserLimits]:
        """Yield the users who have limits of their own, by their ids; with `user_id`, that one if it has any."""
        pages = self._transport.pages("/v1/user_limits", params={"user_id": user_id})
        return (UserLimits.model_validate(item) for item in pages)

    def remove_limits(self, user_id: str) -> None:
        """Take a user's own limits away: the defaults of keys and teams hold again. Raises NotFound."""
        self._transport.request("DELETE", "/v1/user_limits", params={"user_id": user_id})


class AsyncTeams:
    """The same, asynchronously."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def create(self, name: str, **limits: Any) -> Team:
        """Make a team: `create("crew", budget_usd=50, budget_period="month")`. Raises Conflict for a name in use."""
        return await self._team("POST", "/v1/teams", {"name": name, **_body(limits)})

    async def list(self) -> AsyncIterator[Team]:
        """Yield the teams in use, the newest first."""
        async for item in self._transport.pages("/v1/teams"):
            yield Team.model_validate(item)

    async def get(self, team: str) -> Team:
        """Return a team. Raises NotFound."""
        return await self._team("GET", f"/v1/teams/{segment(team)}")

    async def update(self, team: str, **changes: Any) -> Team:
        """Change a team's `name` or limits: what is left out stays, None takes a limit away. Raises NotFound."""
        return await self._team("POST", f"/v1/teams/{segment(team)}", _body(changes))

    async def archive(self, team: str) -> Team:
        """End a team and revoke all its keys, for good. Raises NotFound."""
        return await self._team("DELETE", f"/v1/teams/{segment(team)}")

    async def _team(self, method: str, path: str, body: dict[str, Any] | None = None) -> Team:
        return Team.model_validate(await self._transport.request(method, path, body=body))


class AsyncUsers:
    """The same, asynchronously."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def set_limits(self, user_id: str, **limits: Any) -> UserLimits:
        """Set all limits of a user, in place of those before and of the defaults of keys and teams."""
        answer = await self._transport.request("POST", "/v1/user_limits", body={"user_id": user_id, **_body(limits)})
        return UserLimits.model_validate(answer)

    async def limits(self, user_id: str | None = None) -> AsyncIterator[UserLimits]:
        """Yield the users who have limits of their own, by their ids; with `user_id`, that one if it has any."""
        async for item in self._transport.pages("/v1/user_limits", params={"user_id": user_id}):
            yield UserLimits.model_validate(item)

    async def remove_limits(self, user_id: str) -> None:
        """Take a user's own limits away: the defaults of keys and teams hold again. Raises NotFound."""
        await self._transport.request("DELETE", "/v1/user_limits", params={"user_id": user_id})
