"""Paths of the Managed Agents wire that are known and not served yet: 501, by name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from fastapi import APIRouter

from trunkline.api.deps import PrincipalDependency
from trunkline.errors import NotServed

UNSERVED: Final[dict[str, str]] = {
    "* /v1/environments/{id}/work{rest:path}": "work queues of environments (Trunkline's workers run the tools)",
    "POST /v1/sessions/{id}/threads/{thread_id}/archive": "archiving a thread (a session's own ends with the session)",
    "* /v1/skills{rest:path}": "skills",
    "* /v1/dreams{rest:path}": "dreams",
    "* /v1/user_profiles{rest:path}": "user profiles",
    "* /v1/tunnels{rest:path}": "tunnels",
}

_ANY: Final = ["GET", "POST", "PUT", "PATCH", "DELETE"]


def unserved() -> APIRouter:
    """Return routes that answer 501 to whoever has a key."""
    router = APIRouter(include_in_schema=False)
    for route, what in UNSERVED.items():
        method, _, path = route.partition(" ")
        router.add_api_route(path, _refusal(what), methods=_ANY if method == "*" else [method], response_model=None)
    return router


def _refusal(what: str) -> Callable[..., Awaitable[None]]:
    async def refuse(principal: PrincipalDependency) -> None:  # noqa: ARG001 - asked for so that the key is checked
        raise NotServed(what)

    return refuse
