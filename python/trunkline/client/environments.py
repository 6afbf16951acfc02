from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import datetime
from typing import Any

from pydantic import Field

from trunkline.client.transport import AsyncTransport, Transport, segment
from trunkline.client.wire import Wire, given


class Environment(Wire):
    """Where sessions run."""

    id: str
    name: str
    description: str | None = None
    config: dict[str, Any] | None = None
    metadata: dict[str, str] = Field(default_factory=dict)
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None = None


def _path(environment_id: str, *more: str) -> str:
    return "/".join(["/v1/environments", segment(environment_id), *more])


class Environments:
    """`client.environments`: scope `manage`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self,
        name: str,
        *,
        description: str | None = None,
        config: Mapping[str, Any] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Environment:
        """Make an environment. Raises Conflict when the name is taken."""
        body = given(name=name, description=description, config=config, metadata=metadata)
        return Environment.model_validate(self._transport.request("POST", "/v1/environments", body=body, once=True))

    def list(self, *, include_archived: bool = False) -> Iterator[Environment]:
        """Yield them, newest first, page after page."""
        params = {"include_archived": "true" if include_archived else None}
        for item in self._transport.pages("/v1/environments", params=params):
            yield Environment.model_validate(item)

    def get(self, environment_id: str) -> Environment:
        """Return one. Raises NotFound."""
        return Environment.model_validate(self._transport.request("GET", _path(environment_id)))

    def update(self, environment_id: str, **change: Any) -> Environment:
        """Change what is named, as the API has it; None clears. Raises NotFound, Conflict and InvalidRequest."""
        return Environment.model_validate(self._transport.request("POST", _path(environment_id), body=change))

    def archive(self, environment_id: str) -> Environment:
        """Archive an environment, for good. Raises NotFound."""
        return Environment.model_validate(self._transport.request("POST", _path(environment_id, "archive")))

    def delete(self, environment_id: str) -> None:
        """Delete an environment. Raises NotFound, and Conflict where it is still used."""
        self._transport.request("DELETE", _path(environment_id))


class AsyncEnvironments:
    """The same, asynchronously."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def create(
        self,
        name: str,
        *,
        description: str | None = None,
        config: Mapping[str, Any] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Environment:
        """Make an environment. Raises Conflict when the name is taken."""
        body = given(name=name, description=description, config=config, metadata=metadata)
        return Environment.model_validate(
            await self._transport.request("POST", "/v1/environments", body=body, once=True)
        )

    async def list(self, *, include_archived: bool = False) -> AsyncIterator[Environment]:
        """Yield them, newest first, page after page."""
        params = {"include_archived": "true" if include_archived else None}
        async for item in self._transport.pages("/v1/environments", params=params):
            yield Environment.model_validate(item)

    async def get(self, environment_id: str) -> Environment:
        """Return one. Raises NotFound."""
        return Environment.model_validate(await self._transport.request("GET", _path(environment_id)))

    async def update(self, environment_id: str, **change: Any) -> Environment:
        """Change what is named, as the API has it; None clears. Raises NotFound, Conflict and InvalidRequest."""
        return Environment.model_validate(await self._transport.request("POST", _path(environment_id), body=change))

    async def archive(self, environment_id: str) -> Environment:
        """Archive an environment, for good. Raises NotFound."""
        return Environment.model_validate(await self._transport.request("POST", _path(environment_id, "archive")))

    async def delete(self, environment_id: str) -> None:
        """Delete an environment. Raises NotFound, and Conflict where it is still used."""
        await self._transport.request("DELETE", _path(environment_id))
