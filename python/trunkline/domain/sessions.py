"""Sessions: the head of an event log, pinned to one version of an agent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trunkline.domain import ids
from trunkline.domain.agents import Metadata, MetadataPatch, snapshot
from trunkline.domain.events import EventRequest
from trunkline.domain.times import to_wire
from trunkline.errors import InvalidRequest, NotServed

Status = Literal["idle", "running", "rescheduling", "terminated"]
STATUSES: Final[tuple[Status, ...]] = ("idle", "running", "rescheduling", "terminated")

UserId = Annotated[str, Field(min_length=1, max_length=256)]
Title = Annotated[str, Field(max_length=1024)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AgentReference(_Frozen):
    """An agent by its id (or name), and the version to pin; None: the current one."""

    type: Literal["agent"] = "agent"
    id: Annotated[str, Field(min_length=1)]
    version: Annotated[int | None, Field(ge=1)] = None


class MemoryStoreResource(_Frozen):
    """A memory store that the session may use."""

    type: Literal["memory_store"]
    memory_store_id: str
    access: Literal["read_write", "read_only"] | None = None
    instructions: Annotated[str | None, Field(max_length=4096)] = None


class SessionRequest(_Frozen):
    """A new session. `user_id` is the client's own id of its user; `metadata.user_id` serves where it is absent.

    Any `environment_id` is taken: there is one environment, and the session names it.
    """

    agent: AgentReference
    environment_id: str | None = None
    user_id: UserId | None = None
    title: Title | None = None
    metadata: Metadata = {}
    resources: Annotated[tuple[MemoryStoreResource, ...], Field(max_length=100)] = ()
    initial_events: Annotated[tuple[EventRequest, ...], Field(max_length=50)] = ()

    @model_validator(mode="before")
    @classmethod
    def _prepare(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        for field in ("budget", "vault_ids"):
            if given.get(field):
                raise NotServed(f"sessions with `{field}`", param=field)
        for index, resource in enumerate(_items(given.get("resources"))):
            if isinstance(resource, dict) and resource.get("type") in ("file", "github_repository"):
                raise NotServed(f"session resources of type {resource['type']!r}", param=f"resources[{index}]")
        agent = given.get("agent")
        if isinstance(agent, str):
            agent = {"id": agent}
        elif isinstance(agent, dict) and agent.get("type") == "agent_with_overrides":
            raise NotServed("sessions with overrides of their agent", param="agent.type")
        return {
            key: value
            for key, value in (given | {"agent": agent}).items()
            if value is not None and key not in ("budget", "vault_ids")
        }

    @property
    def user(self) -> str | None:
        """The user that the session is with. Raises InvalidRequest when `metadata.user_id` is no user id."""
        user = self.user_id or self.metadata.get("user_id")
        if user is not None and not 1 <= len(user) <= 256:
            raise InvalidRequest("A user id has 1 to 256 characters.", param="metadata.user_id")
        return user


class SessionUpdate(_Frozen):
    """A change to a session: what is absent stays; `metadata` is a patch key by key."""

    title: Title | None = None
    metadata: MetadataPatch | None = None

    @model_validator(mode="before")
    @classmethod
    def _prepare(cls, given: Any) -> Any:
        if isinstance(given, dict):
            for field in ("agent", "budget", "vault_ids"):
                if given.get(field) is not None:
                    raise NotServed(f"a change of a session's `{field}`", param=field)
            return {key: value for key, value in given.items() if key not in ("agent", "budget", "vault_ids")}
        return given


@dataclass(frozen=True, slots=True)
class Session:
    """A session's head, with the agent version it is pinned to."""

    id: UUID
    agent_id: UUID
    agent_version: int
    definition: Mapping[str, Any]
    user_id: str | None
    title: str | None
    metadata: Mapping[str, str]
    resources: tuple[Mapping[str, Any], ...]
    origin: str
    status: Status
    last_seq: int
    parent_id: UUID | None
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None

    def to_wire(self, environment_id: str, at: datetime) -> dict[str, Any]:
        """Return the Managed Agents `session` as of `at`, with our `user_id`, `origin`, `last_seq` and `parent_id`."""
        end = self.updated_at if self.status == "terminated" else at
        return {
            "id": ids.encode("sesn", self.id),
            "type": "session",
            "agent": snapshot(self.agent_id, self.agent_version, self.definition),
            "status": self.status,
            "user_id": self.user_id,
            "title": self.title,
            "metadata": self.metadata,
            "resources": list(self.resources),
            "environment_id": environment_id,
            "outcome_evaluations": [],
            "vault_ids": [],
            "deployment_id": None,
            "budget": None,
            "stats": {
                "active_seconds": None,
                "duration_seconds": max(0.0, round((end - self.created_at).total_seconds(), 3)),
            },
            "usage": {
                "input_tokens": self.input_tokens,
                "output_tokens": self.output_tokens,
                "cache_read_input_tokens": self.cached_tokens,
            },
            "origin": self.origin,
            "last_seq": self.last_seq,
            "parent_id": None if self.parent_id is None else ids.encode("sesn", self.parent_id),
            "created_at": to_wire(self.created_at),
            "updated_at": to_wire(self.updated_at),
            "archived_at": to_wire(self.archived_at),
        }


def _items(given: Any) -> list[Any]:
    return given if isinstance(given, list) else []
