"""Sessions: the head of an event log, pinned to one version of an agent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, RootModel, field_validator, model_validator

from trunkline.domain import ids
from trunkline.domain.agents import Metadata, MetadataPatch, snapshot
from trunkline.domain.budgets import Budget, Limits, Used
from trunkline.domain.events import EventRequest
from trunkline.domain.repositories import RepositoryResource
from trunkline.domain.times import to_wire
from trunkline.errors import InvalidRequest, NotServed

Status = Literal["idle", "running", "rescheduling", "terminated"]
STATUSES: Final[tuple[Status, ...]] = ("idle", "running", "rescheduling", "terminated")

MAX_RESOURCES: Final = 100

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


class FileResource(_Frozen):
    """A file that the session may read; without a `mount_path` it lies under `UPLOADS` by its id."""

    type: Literal["file"]
    file_id: str
    mount_path: Annotated[str | None, Field(pattern=r"^/[^\x00-\x1f\x7f]*$", max_length=1024)] = None

    @field_validator("mount_path")
    @classmethod
    def _inside(cls, path: str | None) -> str | None:
        if path is not None and ".." in path.split("/"):
            raise ValueError("must not contain '..'")
        return path


UPLOADS: Final = "/mnt/session/uploads"
Resource = Annotated[MemoryStoreResource | FileResource, Field(discriminator="type")]
FirstResource = Annotated[MemoryStoreResource | FileResource | RepositoryResource, Field(discriminator="type")]
"""What a session may begin with."""


def named_agent(given: Any) -> Any:
    """Read an agent's id or name alone as a reference to it. Raises NotServed for one with overrides."""
    if isinstance(given, dict) and given.get("type") == "agent_with_overrides":
        raise NotServed("sessions with overrides of their agent", param="agent.type")
    return {"id": given} if isinstance(given, str) else given


def refuse_unserved_resources(given: Any) -> None:
    """Raise NotServed for a list that has a kind of resource that only a session itself begins with."""
    for index, resource in enumerate(given if isinstance(given, list) else ()):
        refuse_unserved_resource(resource, f"resources[{index}]")


def refuse_unserved_resource(given: Any, param: str) -> None:
    """Raise NotServed for a kind of resource that only a session itself begins with."""
    if isinstance(given, dict) and given.get("type") == "github_repository":
        raise NotServed("a resource of type 'github_repository' elsewhere than in a new session", param=param)


class ResourceRequest(RootModel[Resource]):
    """One thing to attach to a session."""

    model_config = ConfigDict(frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _served(cls, given: Any) -> Any:
        refuse_unserved_resource(given, "type")
        return given


class SessionRequest(_Frozen):
    """A new session. `user_id` is the client's own id of its user; `metadata.user_id` serves where it is absent.

    Without an `environment_id` (or name) it runs in the default environment. `budget` and `limits` go before those of
    the agent's `limits`.
    """

    agent: AgentReference
    environment_id: Annotated[str | None, Field(min_length=1)] = None
    user_id: UserId | None = None
    title: Title | None = None
    metadata: Metadata = {}
    vault_ids: Annotated[tuple[str, ...], Field(max_length=20)] = ()
    resources: Annotated[tuple[FirstResource, ...], Field(max_length=MAX_RESOURCES)] = ()
    initial_events: Annotated[tuple[EventRequest, ...], Field(max_length=50)] = ()
    budget: Budget | None = None
    limits: Limits = Limits()

    @model_validator(mode="before")
    @classmethod
    def _prepare(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        named = given | {"agent": named_agent(given.get("agent"))}
        return {key: value for key, value in named.items() if value is not None}

    @property
    def user(self) -> str | None:
        """The user that the session is with. Raises InvalidRequest when `metadata.user_id` is no user id."""
        user = self.user_id or self.metadata.get("user_id")
        if user is not None and not 1 <= len(user) <= 256:
            raise InvalidRequest("A user id has 1 to 256 characters.", param="metadata.user_id")
        return user


class SessionUpdate(_Frozen):
    """A change to a session: what is absent stays; `metadata` and `limits` are patches key by key.

    A `budget` of null takes the budget away, and `limits` of null all of these.
    """

    title: Title | None = None
    metadata: MetadataPatch | None = None
    budget: Budget | None = None
    limits: Limits | None = None

    @model_validator(mode="before")
    @classmethod
    def _prepare(cls, given: Any) -> Any:
        if isinstance(given, dict):
            for field in ("agent", "vault_ids"):
                if given.get(field) is not None:
                    raise NotServed(f"a change of a session's `{field}`", param=field)
            return {key: value for key, value in given.items() if key not in ("agent", "vault_ids")}
        return given

    def limited(self, limits: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """Return a session's limits after this change."""
        if "limits" not in self.model_fields_set:
            return None if limits is None else dict(limits)
        if self.limits is None:
            return None
        after = {**(limits or {}), **self.limits.model_dump(exclude_unset=True)}
        return {name: bound for name, bound in after.items() if bound is not None} or None


class ForkRequest(_Frozen):
    """A session that goes on from a point of another: `at` is the number of the last event that it shares; None: all.

    It has the other's title, and its metadata with these changes.
    """

    at: Annotated[int | None, Field(ge=0, lt=2**63)] = None
    title: Title | None = None
    metadata: MetadataPatch | None = None


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
    turns: int
    cost_nano: int
    unpriced: bool
    active_us: int
    running_since: datetime | None
    budget: Mapping[str, Any] | None
    limits: Mapping[str, Any] | None
    environment_id: UUID | None
    """Where it runs; None: in the default environment."""
    vault_ids: tuple[UUID, ...]
    deployment_id: UUID | None
    """What started it; None: a client did."""
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None

    @property
    def used(self) -> Used:
        """What the runtime has used for it."""
        tokens = self.input_tokens + self.output_tokens + self.cached_tokens
        return Used(self.turns, tokens, self.cost_nano, self.unpriced, self.active_us, self.running_since)

    def to_wire(self, tenant_id: UUID, at: datetime) -> dict[str, Any]:
        """Return the Managed Agents `session` as of `at`, with our own members."""
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
            "environment_id": ids.encode("env", self.environment_id or tenant_id),
            "outcome_evaluations": [],
            "vault_ids": [ids.encode("vlt", vault_id) for vault_id in self.vault_ids],
            "deployment_id": None if self.deployment_id is None else ids.encode("depl", self.deployment_id),
            "budget": self.budget,
            "limits": self.limits or {},
            "stats": {
                "active_seconds": self.used.active_seconds(at),
                "duration_seconds": max(0.0, round((end - self.created_at).total_seconds(), 3)),
            },
            "usage": {
                "input_tokens": self.input_tokens,
                "output_tokens": self.output_tokens,
                "cache_read_input_tokens": self.cached_tokens,
                **self.used.to_wire(at),
            },
            "origin": self.origin,
            "last_seq": self.last_seq,
            "parent_id": None if self.parent_id is None else ids.encode("sesn", self.parent_id),
            "created_at": to_wire(self.created_at),
            "updated_at": to_wire(self.updated_at),
            "archived_at": to_wire(self.archived_at),
        }
