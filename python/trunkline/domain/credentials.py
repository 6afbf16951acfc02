"""Credentials of a vault, in two parts: what may be told of one, and what is secret."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, SecretStr, model_validator

from trunkline.domain import ids
from trunkline.domain.agents import Metadata, MetadataPatch
from trunkline.domain.environments import Host
from trunkline.domain.times import to_wire
from trunkline.domain.vaults import DisplayName
from trunkline.errors import InvalidRequest

MOST_SECRET: Final = 65_536
"""Characters of a secret."""
Secret = Annotated[SecretStr, Field(min_length=1, max_length=MOST_SECRET)]
Url = Annotated[str, Field(pattern=r"^https?://[^\s@]+$", max_length=2048)]
Secrets = Mapping[str, str]
"""By name: `access_token`, `refresh_token`, `client_secret`, `token` or `secret_value`."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, given: Any) -> Any:
        return {key: value for key, value in given.items() if value is not None} if isinstance(given, dict) else given


class NoClientSecret(_Frozen):
    """The token endpoint asks for no secret of the client."""

    type: Literal["none"]


class ClientSecret(_Frozen):
    """How the client proves itself to the token endpoint."""

    type: Literal["client_secret_basic", "client_secret_post"]
    client_secret: Secret


class ClientSecretUpdate(_Frozen):
    """The same, where the secret may stay."""

    type: Literal["client_secret_basic", "client_secret_post"]
    client_secret: Secret | None = None


class Refresh(_Frozen):
    """How an access token is renewed."""

    client_id: Annotated[str, Field(min_length=1, max_length=2048)]
    refresh_token: Secret
    token_endpoint: Url
    token_endpoint_auth: Annotated[NoClientSecret | ClientSecret, Field(discriminator="type")]
    resource: Annotated[str | None, Field(max_length=2048)] = None
    scope: Annotated[str | None, Field(max_length=4096)] = None


class RefreshUpdate(_Frozen):
    """A change of how an access token is renewed."""

    refresh_token: Secret | None = None
    token_endpoint_auth: ClientSecretUpdate | None = None
    scope: Annotated[str | None, Field(max_length=4096)] = None


class McpOAuth(_Frozen):
    """An OAuth access token for an MCP server."""

    type: Literal["mcp_oauth"]
    mcp_server_url: Url
    access_token: Secret
    expires_at: AwareDatetime | None = None
    refresh: Refresh | None = None


class StaticBearer(_Frozen):
    """A token for an MCP server that does not change."""

    type: Literal["static_bearer"]
    mcp_server_url: Url
    token: Secret


class Unrestricted(_Frozen):
    """The secret may go to any host."""

    type: Literal["unrestricted"]


class Limited(_Frozen):
    """The secret may go to these hosts alone."""

    type: Literal["limited"]
    allowed_hosts: Annotated[tuple[Host, ...], Field(min_length=1, max_length=200)]


Networking = Annotated[Unrestricted | Limited, Field(discriminator="type")]


class InjectionLocation(_Frozen):
    """Where in a request that leaves the sandbox the placeholder is replaced by the secret."""

    body: bool = False
    header: bool = True

    @model_validator(mode="after")
    def _somewhere(self) -> InjectionLocation:
        if not (self.body or self.header):
            raise ValueError("at least one of `body` and `header` must be true")
        return self


class InjectionLocationUpdate(_Frozen):
    """A change of it."""

    body: bool | None = None
    header: bool | None = None


class EnvironmentVariable(_Frozen):
    """A secret that tools see as a placeholder in an environment variable."""

    type: Literal["environment_variable"]
    secret_name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=255)]
    secret_value: Secret
    networking: Networking
    injection_location: InjectionLocation = InjectionLocation()


Auth = Annotated[McpOAuth | StaticBearer | EnvironmentVariable, Field(discriminator="type")]


class McpOAuthUpdate(_Frozen):
    """A change of an `mcp_oauth`."""

    type: Literal["mcp_oauth"]
    access_token: Secret | None = None
    expires_at: AwareDatetime | None = None
    refresh: RefreshUpdate | None = None


class StaticBearerUpdate(_Frozen):
    """A change of a `static_bearer`."""

    type: Literal["static_bearer"]
    token: Secret | None = None


class EnvironmentVariableUpdate(_Frozen):
    """A change of an `environment_variable`."""

    type: Literal["environment_variable"]
    secret_value: Secret | None = None
    networking: Networking | None = None
    injection_location: InjectionLocationUpdate | None = None


AuthUpdate = Annotated[McpOAuthUpdate | StaticBearerUpdate | EnvironmentVariableUpdate, Field(discriminator="type")]


class CredentialRequest(_Frozen):
    """A new credential."""

    auth: Auth
    display_name: DisplayName | None = None
    metadata: Metadata = {}


class CredentialUpdate(_Frozen):
    """A change: what is absent or null stays; `metadata` is a patch key by key."""

    auth: AuthUpdate | None = None
    display_name: DisplayName | None = None
    metadata: MetadataPatch | None = None


@dataclass(frozen=True, slots=True)
class Credential:
    """A credential without its secrets. `auth` is what the wire tells of it; `target` what it is for."""

    id: UUID
    vault_id: UUID
    display_name: str | None
    target: str
    auth: Mapping[str, Any]
    metadata: Mapping[str, str]
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None
    sealed: bytes | None = field(default=None, repr=False)

    def to_wire(self) -> dict[str, Any]:
        """Return the Managed Agents `vault_credential`."""
        return {
            "id": ids.encode("vcrd", self.id),
            "type": "vault_credential",
            "vault_id": ids.encode("vlt", self.vault_id),
            "display_name": self.display_name,
            "auth": self.auth,
            "metadata": self.metadata,
            "created_at": to_wire(self.created_at),
            "updated_at": to_wire(self.updated_at),
            "archived_at": to_wire(self.archived_at),
        }


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a token endpoint gave for a refresh token. `refresh_token`: the one for the next time; None: the same."""

    access_token: str = field(repr=False)
    expires_at: datetime | None
    """None: it did not say."""
    refresh_token: str | None = field(repr=False)


def target(auth: McpOAuth | StaticBearer | EnvironmentVariable) -> str:
    """Return what a credential is for: a vault has one for each."""
    return auth.secret_name if isinstance(auth, EnvironmentVariable) else auth.mcp_server_url


def told(auth: McpOAuth | StaticBearer | EnvironmentVariable) -> dict[str, Any]:
    """Return what may be told of a credential."""
    match auth:
        case McpOAuth(refresh=refresh):
            shown = None
            if refresh is not None:
                shown = refresh.model_dump(mode="json", exclude={"refresh_token", "token_endpoint_auth"})
                shown["token_endpoint_auth"] = {"type": refresh.token_endpoint_auth.type}
            return {
                "type": auth.type,
                "mcp_server_url": auth.mcp_server_url,
                "expires_at": to_wire(auth.expires_at),
                "refresh": shown,
            }
        case StaticBearer():
            return {"type": auth.type, "mcp_server_url": auth.mcp_server_url}
        case EnvironmentVariable():
            return auth.model_dump(mode="json", exclude={"secret_value"})


def secrets(auth: McpOAuth | StaticBearer | EnvironmentVariable) -> dict[str, str]:
    """Return what is secret of a credential."""
    match auth:
        case McpOAuth():
            found = {"access_token": auth.access_token}
            if auth.refresh is not None:
                found["refresh_token"] = auth.refresh.refresh_token
                if isinstance(auth.refresh.token_endpoint_auth, ClientSecret):
                    found["client_secret"] = auth.refresh.token_endpoint_auth.client_secret
        case StaticBearer():
            found = {"token": auth.token}
        case EnvironmentVariable():
            found = {"secret_value": auth.secret_value}
    return {name: value.get_secret_value() for name, value in found.items()}


def renewed(auth: Mapping[str, Any], before: Secrets, tokens: Tokens) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what may be told of an `mcp_oauth` whose access token was renewed, and its secrets."""
    kept = dict(before) | {"access_token": tokens.access_token}
    if tokens.refresh_token is not None:
        kept["refresh_token"] = tokens.refresh_token
    return dict(auth) | {"expires_at": to_wire(tokens.expires_at)}, kept


def changed(
    auth: Mapping[str, Any], before: Secrets, update: McpOAuthUpdate | StaticBearerUpdate | EnvironmentVariableUpdate
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what may be told of a credential after a change, and its secrets. Raises InvalidRequest."""
    if update.type != auth["type"]:
        raise InvalidRequest(
            f"The credential is of type {auth['type']!r}, which cannot be changed; make another.", param="auth.type"
        )
    after, kept = dict(auth), dict(before)
    new: dict[str, SecretStr | None] = {}
    match update:
        case McpOAuthUpdate():
            new["access_token"] = update.access_token
            if update.expires_at is not None:
                after["expires_at"] = to_wire(update.expires_at)
            if update.refresh is not None:
                after["refresh"] = _refreshed(after["refresh"], update.refresh)
                new["refresh_token"] = update.refresh.refresh_token
                if update.refresh.token_endpoint_auth is not None:
                    new["client_secret"] = update.refresh.token_endpoint_auth.client_secret
        case StaticBearerUpdate():
            new["token"] = update.token
        case EnvironmentVariableUpdate():
            new["secret_value"] = update.secret_value
            if update.networking is not None:
                after["networking"] = update.networking.model_dump(mode="json")
            if update.injection_location is not None:
                moved = {**after["injection_location"], **update.injection_location.model_dump(exclude_none=True)}
                if not any(moved.values()):
                    raise InvalidRequest(
                        "At least one of `body` and `header` must stay true.", param="auth.injection_location"
                    )
                after["injection_location"] = moved
    kept |= {name: value.get_secret_value() for name, value in new.items() if value is not None}
    return after, kept


def _refreshed(refresh: Mapping[str, Any] | None, update: RefreshUpdate) -> dict[str, Any]:
    if refresh is None:
        raise InvalidRequest("The credential has no refresh token to change; make another.", param="auth.refresh")
    after = dict(refresh)
    if update.scope is not None:
        after["scope"] = update.scope
    if update.token_endpoint_auth is not None:
        if after["token_endpoint_auth"]["type"] == "none":
            raise InvalidRequest(
                "The credential's token endpoint asks for no client secret; make another credential.",
                param="auth.refresh.token_endpoint_auth",
            )
        after["token_endpoint_auth"] = {"type": update.token_endpoint_auth.type}
    return after
