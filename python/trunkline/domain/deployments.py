"""Deployments: an agent with what it is told, started by a schedule or by hand; and their runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from trunkline.domain import ids
from trunkline.domain.agents import Metadata, MetadataPatch
from trunkline.domain.budgets import Budget
from trunkline.domain.events import EventRequest
from trunkline.domain.schedules import Cron, Once, Schedule, as_cron, jittered, times, upcoming
from trunkline.domain.sessions import (
    MAX_RESOURCES,
    AgentReference,
    Resource,
    SessionRequest,
    named_agent,
    refuse_unserved_resources,
)
from trunkline.domain.times import to_wire

Name = Annotated[str, Field(min_length=1, max_length=256)]
Description = Annotated[str, Field(max_length=2048)]
Resources = Annotated[tuple[Resource, ...], Field(max_length=MAX_RESOURCES)]
VaultIds = Annotated[tuple[str, ...], Field(max_length=20)]
Status = Literal["active", "paused"]

_SCHEDULE: TypeAdapter[Cron | Once] = TypeAdapter(Schedule)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _told(events: Any) -> Any:
    """Refuse what no deployment can say: it answers no tool call and interrupts nobody."""
    for event in events or ():
        if event.type not in ("user.message", "system.message"):
            raise ValueError(f"a deployment sends user.message and system.message, not {event.type}")
    return events


def _prepare(given: Any) -> Any:
    if not isinstance(given, dict):
        return given
    refuse_unserved_resources(given.get("resources"))
    return given | {"agent": named_agent(given["agent"])} if "agent" in given else given


Events = Annotated[tuple[EventRequest, ...], Field(min_length=1, max_length=50), AfterValidator(_told)]


class DeploymentRequest(_Frozen):
    """A new deployment. Without a `schedule` it runs by hand alone."""

    agent: AgentReference
    environment_id: Annotated[str | None, Field(min_length=1)] = None
    name: Name
    description: Description | None = None
    initial_events: Events
    metadata: Metadata = {}
    resources: Resources = ()
    vault_ids: VaultIds = ()
    schedule: Schedule | None = None
    budget: Budget | None = None

    @model_validator(mode="before")
    @classmethod
    def _served(cls, given: Any) -> Any:
        given = _prepare(given)
        return {key: value for key, value in given.items() if value is not None} if isinstance(given, dict) else given


class DeploymentUpdate(_Frozen):
    """A change: what is absent stays; null clears what may be empty; `metadata` is a patch key by key."""

    agent: AgentReference | None = None
    environment_id: Annotated[str | None, Field(min_length=1)] = None
    name: Name | None = None
    description: Description | None = None
    initial_events: Events | None = None
    metadata: MetadataPatch | None = None
    resources: Resources | None = None
    vault_ids: VaultIds | None = None
    schedule: Schedule | None = None
    budget: Budget | None = None

    @model_validator(mode="before")
    @classmethod
    def _served(cls, given: Any) -> Any:
        return _prepare(given)


@dataclass(frozen=True, slots=True)
class Deployment:
    """A deployment. `schedule`, `resources` and `initial_events` are what clients sent, as JSON."""

    id: UUID
    agent_id: UUID
    agent_version: int
    environment_id: UUID | None
    name: str
    description: str | None
    vault_ids: tuple[UUID, ...]
    resources: tuple[Mapping[str, Any], ...]
    initial_events: tuple[Mapping[str, Any], ...]
    metadata: Mapping[str, str]
    schedule: Mapping[str, Any] | None
    status: Status
    paused_reason: Mapping[str, Any] | None
    failures: int
    """How many scheduled runs in a row have started no session."""
    next_run_at: datetime | None
    due_at: datetime | None
    last_run_at: datetime | None
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None
    budget: Mapping[str, Any] | None = None
    """What each session that it starts may cost; None: what the agent's limits say."""
    key_id: UUID | None = None
    """The key in whose name its sessions work; None: the tenant's."""

    @property
    def plan(self) -> Cron | Once | None:
        """The schedule; None: it runs by hand alone."""
        return None if self.schedule is None else _SCHEDULE.validate_python(dict(self.schedule))

    def session(self, tenant_id: UUID) -> SessionRequest:
        """Return what a run asks for."""
        return SessionRequest.model_validate(
            {
                "agent": {"type": "agent", "id": ids.encode("agent", self.agent_id), "version": self.agent_version},
                "environment_id": ids.encode("env", self.environment_id or tenant_id),
                "title": self.name,
                "metadata": dict(self.metadata),
                "vault_ids": [ids.encode("vlt", vault_id) for vault_id in self.vault_ids],
                "resources": list(self.resources),
                "initial_events": list(self.initial_events),
                "budget": self.budget,
            }
        )

    def to_wire(self, tenant_id: UUID, at: datetime) -> dict[str, Any]:
        """Return the Managed Agents `deployment` as of `at`."""
        schedule = None
        plan = self.plan
        if plan is not None:
            coming = [] if self.archived_at is not None else upcoming(plan, at)
            schedule = as_cron(plan) | {
                "last_run_at": to_wire(self.last_run_at),
                "upcoming_runs_at": [to_wire(moment) for moment in coming],
            }
        return {
            "id": ids.encode("depl", self.id),
            "type": "deployment",
            "agent": _reference(self.agent_id, self.agent_version),
            "environment_id": ids.encode("env", self.environment_id or tenant_id),
            "name": self.name,
            "description": self.description,
            "initial_events": list(self.initial_events),
            "metadata": self.metadata,
            "resources": list(self.resources),
            "vault_ids": [ids.encode("vlt", vault_id) for vault_id in self.vault_ids],
            "schedule": schedule,
            "status": self.status,
            "paused_reason": self.paused_reason,
            "budget": self.budget,
            "created_at": to_wire(self.created_at),
            "updated_at": to_wire(self.updated_at),
            "archived_at": to_wire(self.archived_at),
        }


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a deployment: the session that it started, or why it started none (`{"type", "message"}`)."""

    id: UUID
    deployment_id: UUID
    agent_id: UUID
    agent_version: int
    scheduled_at: datetime | None
    """The time on the schedule; None: it was run by hand."""
    session_id: UUID | None
    error: Mapping[str, Any] | None
    created_at: datetime

    def to_wire(self) -> dict[str, Any]:
        """Return the Managed Agents `deployment_run`."""
        trigger = (
            {"type": "manual"}
            if self.scheduled_at is None
            else {"type": "schedule", "scheduled_at": to_wire(self.scheduled_at)}
        )
        return {
            "id": ids.encode("drun", self.id),
            "type": "deployment_run",
            "deployment_id": ids.encode("depl", self.deployment_id),
            "agent": _reference(self.agent_id, self.agent_version),
            "session_id": None if self.session_id is None else ids.encode("sesn", self.session_id),
            "error": self.error,
            "trigger_context": trigger,
            "created_at": to_wire(self.created_at),
        }


def timed(deployment: Deployment, next_run_at: datetime | None) -> Deployment:
    """Return a deployment that runs next at this time of its schedule, if it runs by itself at all."""
    plan = deployment.plan
    if plan is None or next_run_at is None:
        return replace(deployment, next_run_at=None, due_at=None)
    runs = deployment.status == "active" and deployment.archived_at is None
    due_at = jittered(plan, deployment.id, next_run_at) if runs else None
    return replace(deployment, next_run_at=next_run_at, due_at=due_at)


def planned(deployment: Deployment, at: datetime) -> Deployment:
    """Return a deployment that runs next at the first time of its schedule after `at`."""
    plan = deployment.plan
    return timed(deployment, None if plan is None else next(times(plan, at), None))


def _reference(agent_id: UUID, version: int) -> dict[str, Any]:
    return {"type": "agent", "id": ids.encode("agent", agent_id), "version": version}
