from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import datetime
from typing import Any

from pydantic import Field

from trunkline.client.transport import AsyncTransport, Transport, segment
from trunkline.client.wire import Wire, given


class Vault(Wire):
    """A place for the credentials that a session's tools sign in with."""

    id: str
    display_name: str
    metadata: dict[str, str] = Field(default_factory=dict)
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None = None


class Credential(Wire):
    """A credential, without what is secret of it."""

    id: str
    vault_id: str
    display_name: str | None = None
    auth: dict[str, Any]
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None = None


def _path(vault_id: str, *more: str) -> str:
    return "/".join(["/v1/vaults", segment(vault_id), *more])


class Vaults:
    """`client.vaults`: scope `manage`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.credentials = Credentials(transport)

    def create(self, display_name: str, *, metadata: Mapping[str, str] | None = None) -> Vault:
        """Make a vault."""
        body = given(display_name=display_name, metadata=metadata)
        return Vault.model_validate(self._transport.request("POST", "/v1/vaults", body=body, once=True))

    def list(self, *, include_archived: bool = False) -> Iterator[Vault]:
        """Yield them, newest first, page after page."""
        params = {"include_archived": "true" if include_archived else None}
        for item in self._transport.pages("/v1/vaults", params=params):
            yield Vault.model_validate(item)

    def get(self, vault_id: str) -> Vault:
        """Return one. Raises NotFound."""
        return Vault.model_validate(self._transport.request("GET", _path(vault_id)))

    def update(self, vault_id: str, **change: Any) -> Vault:
        """Change what is named, as the API has it; None clears. Raises NotFound, Conflict and InvalidRequest."""
        return Vault.model_validate(self._transport.request("POST", _path(vault_id), body=change))

    def archive(self, vault_id: str) -> Vault:
        """Archive a vault with its credentials, for good. Raises NotFound."""
        return Vault.model_validate(self._transport.request("POST", _path(vault_id, "archive")))

    def delete(self, vault_id: str) -> None:
        """Delete a vault with its credentials. Raises NotFound, and Conflict where it is still used."""
        self._transport.request("DELETE", _path(vault_id))


class AsyncVaults:
    """The same, asynchronously."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport
        self.credentials = AsyncCredentials(transport)

    async def create(self, display_name: str, *, metadata: Mapping[str, str] | None = None) -> Vault:
        """Make a vault."""
        body = given(display_name=display_name, metadata=metadata)
        return Vault.model_validate(await self._transport.request("POST", "/v1/vaults", body=body, once=True))

    async def list(self, *, include_archived: bool = False) -> AsyncIterator[Vault]:
        """Yield them, newest first, page after page."""
        params = {"include_archived": "true" if include_archived else None}
        async for item in self._transport.pages("/v1/vaults", params=params):
            yield Vault.model_validate(item)

    async def get(self, vault_id: str) -> Vault:
        """Return one. Raises NotFound."""
        return Vault.model_validate(await self._transport.request("GET", _path(vault_id)))

    async def update(self, vault_id: str, **change: Any) -> Vault:
        """Change what is named, as the API has it; None clears. Raises NotFound, Conflict and InvalidRequest."""
        return Vault.model_validate(await self._transport.request("POST", _path(vault_id), body=change))

    async def archive(self, vault_id: str) -> Vault:
        """Archive a vault with its credentials, for good. Raises NotFound."""
        return Vault.model_validate(await self._transport.request("POST", _path(vault_id, "archive")))

    async def delete(self, vault_id: str) -> None:
        """Delete a vault with its credentials. Raises NotFound, and Conflict where it is still used."""
        await self._transport.request("DELETE", _path(vault_id))


class Credentials:
    """`client.vaults.credentials`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, vault_id: str, auth: Mapping[str, Any], *, display_name: str | None = None) -> Credential:
        """Keep a credential; what is secret of it is never shown again. Raises NotFound and InvalidRequest."""
        body = given(auth=dict(auth), display_name=display_name)
        answer = self._transport.request("POST", _path(vault_id, "credentials"), body=body, once=True)
        return Credential.model_validate(answer)

    def list(self, vault_id: str) -> Iterator[Credential]:
        """Yield a vault's credentials, newest first. Raises NotFound."""
        for item in self._transport.pages(_path(vault_id, "credentials")):
            yield Credential.model_validate(item)

    def get(self, vault_id: str, credential_id: str) -> Credential:
        """Return one. Raises NotFound."""
        path = _path(vault_id, "credentials", segment(credential_id))
        return Credential.model_validate(self._transport.request("GET", path))

    def update(self, vault_id: str, credential_id: str, **change: Any) -> Credential:
        """Change what is named, as the API has it. Raises NotFound, Conflict and InvalidRequest."""
        path = _path(vault_id, "credentials", segment(credential_id))
        return Credential.model_validate(self._transport.request("POST", path, body=change))

    def archive(self, vault_id: str, credential_id: str) -> Credential:
        """Archive a credential: what is secret of it is deleted. Raises NotFound."""
        path = _path(vault_id, "credentials", segment(credential_id), "archive")
        return Credential.model_validate(self._transport.request("POST", path))

    def delete(self, vault_id: str, credential_id: str) -> None:
        """Delete a credential. Raises NotFound."""
        self._transport.request("DELETE", _path(vault_id, "credentials", segment(credential_id)))


class AsyncCredentials:
    """The same, asynchronously."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def create(self, vault_id: str, auth: Mapping[str, Any], *, display_name: str | None = None) -> Credential:
        """Keep a credential; what is secret of it is never shown again. Raises NotFound and InvalidRequest."""
        body = given(auth=dict(auth), display_name=display_name)
        answer = await self._transport.request("POST", _path(vault_id, "credentials"), body=body, once=True)
        return Credential.model_validate(answer)

    async def list(self, vault_id: str) -> AsyncIterator[Credential]:
        """Yield a vault's credentials, newest first. Raises NotFound."""
        async for item in self._transport.pages(_path(vault_id, "credentials")):
            yield Credential.model_validate(item)

    async def get(self, vault_id: str, credential_id: str) -> Credential:
        """Return one. Raises NotFound."""
        path = _path(vault_id, "credentials", segment(credential_id))
        return Credential.model_validate(await self._transport.request("GET", path))

    async def update(self, vault_id: str, credential_id: str, **change: Any) -> Credential:
        """Change what is named, as the API has it. Raises NotFound, Conflict and InvalidRequest."""
        path = _path(vault_id, "credentials", segment(credential_id))
        return Credential.model_validate(await self._transport.request("POST", path, body=change))

    async def archive(self, vault_id: str, credential_id: str) -> Credential:
        """Archive a credential: what is secret of it is deleted. Raises NotFound."""
        path = _path(vault_id, "credentials", segment(credential_id), "archive")
        return Credential.model_validate(await self._transport.request("POST", path))

    async def delete(self, vault_id: str, credential_id: str) -> None:
        """Delete a credential. Raises NotFound."""
        await self._transport.request("DELETE", _path(vault_id, "credentials", segment(credential_id)))
