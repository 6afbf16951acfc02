"""Environments: where sessions run, and what they may reach from there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trunkline.domain import ids
from trunkline.domain.agents import Metadata, MetadataPatch
from trunkline.domain.times import to_wire
from trunkline.errors import NotServed

DEFAULT: Final = "default"
"""The name of the environment that every tenant has without making it."""
_MADE: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""The default environment is not made at any time."""

Name = Annotated[str, Field(min_length=1, max_length=256)]
Description = Annotated[str, Field(max_length=2048)]
Host = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\s/]+$")]
Package = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\s]+$")]
PackageList = Annotated[tuple[Package, ...], Field(max_length=200)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, given: Any) -> Any:
        return {key: value for key, value in given.items() if value is not None} if isinstance(given, dict) else given


class UnrestrictedNetwork(_Frozen):
    """Any host may be reached."""

    type: Literal["unrestricted"] = "unrestricted"


class LimitedNetwork(_Frozen):
    """These hosts alone may be reached."""

    type: Literal["limited"]
    allowed_hosts: Annotated[tuple[Host, ...], Field(max_length=200)] = ()
    allow_mcp_servers: bool = False
    allow_package_managers: bool = False


class Packages(_Frozen):
    """What is installed before the agent begins, by package manager."""

    type: Literal["packages"] = "packages"
    apt: PackageList = ()
    cargo: PackageList = ()
    gem: PackageList = ()
    go: PackageList = ()
    npm: PackageList = ()
    pip: PackageList = ()


class CloudConfig(_Frozen):
    """Tools run where Trunkline's workers do."""

    type: Literal["cloud"] = "cloud"
    networking: Annotated[UnrestrictedNetwork | LimitedNetwork, Field(discriminator="type")] = UnrestrictedNetwork()
    packages: Packages = Packages()


class SelfHostedConfig(_Frozen):
    """Tools run where their owner runs them."""

    type: Literal["self_hosted"]


Config = Annotated[CloudConfig | SelfHostedConfig, Field(discriminator="type")]


def _refuse_scope(given: Any) -> Any:
    """Refuse environments of one account: keys stand for tenants here, not for persons. Raises NotServed."""
    if isinstance(given, dict) and given.get("scope") == "account":
        raise NotServed("environments with scope 'account'", param="scope")
    return given


class EnvironmentRequest(_Frozen):
    """A new environment."""

    name: Name
    description: Description | None = None
    config: Config = CloudConfig()
    metadata: Metadata = {}
    scope: Literal["organization"] = "organization"

    @model_validator(mode="before")
    @classmethod
    def _prepare(cls, given: Any) -> Any:
        return _refuse_scope(given)


class EnvironmentUpdate(_Frozen):
    """A change: what is absent or null stays, an empty description clears it; `metadata` is a patch key by key."""

    name: Name | None = None
    description: Description | None = None
    config: Config | None = None
    metadata: MetadataPatch | None = None
    scope: Literal["organization"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _prepare(cls, given: Any) -> Any:
        return _refuse_scope(given)


@dataclass(frozen=True, slots=True)
class Environment:
    """An environment. `config` is a `Config` as JSON, every value written out."""

    id: UUID
    name: str
    description: str | None
    config: Mapping[str, Any]
    metadata: Mapping[str, str]
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None

    def to_wire(self) -> dict[str, Any]:
        """Return the Managed Agents `environment`."""
        return {
            "id": ids.encode("env", self.id),
            "type": "environment",
            "name": self.name,
            "description": self.description,
            "config": self.config,
            "metadata": self.metadata,
            "scope": "organization",
            "created_at": to_wire(self.created_at),
            "updated_at": to_wire(self.updated_at),
            "archived_at": to_wire(self.archived_at),
        }


def default(tenant_id: UUID) -> Environment:
    """Return the environment that a tenant has without making it; its id is the tenant's."""
    config = CloudConfig().model_dump(mode="json")
    return Environment(tenant_id, DEFAULT, "Where sessions run that name no other.", config, {}, _MADE, _MADE, None)
