from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from trunkline.client.transport import AsyncTransport, Transport, segment
from trunkline.client.wire import Wire, given


class Deployment(Wire):
    """An agent with what it is told, run by a schedule or by hand."""

    id: str
    name: str
    agent: dict[str, Any]
    schedule: dict[str, Any] | None = None
    status: str
    paused_reason: dict[str, Any] | None = None
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None = None


class DeploymentRun(Wire):
    """One run: the session that it started, or the error that kept it from it."""

    id: str
    deployment_id: str
    session_id: str | None = None
    error: dict[str, Any] | None = None
    created_at: datetime


def _path(deployment_id: str, *more: str) -> str:
    return "/".join(["/v1/deployments", segment(deployment_id), *more])


class Deployments:
    """`client.deployments`: schedules of agents; scope `manage`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self,
        agent: str,
        name: str,
        *,
        initial_events: Sequence[Mapping[str, Any]] | None = None,
        say: str | None = None,
        schedule: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> Deployment:
        """Make a deployment of an agent, by its name or id; `say` is short for one message of the user's.

        `schedule` is `{"type": "cron", "expression": "0 9 * * *", "timezone": "Europe/Berlin"}` or
        `{"type": "once", "at": …}`; `more` as `POST /v1/deployments` has it. Raises NotFound and InvalidRequest.
        """
        said = [{"type": "user.message", "content": [{"type": "text", "text": say}]}] if say is not None else []
        events = [*said, *(dict(event) for event in initial_events or ())]
        body = given(agent=agent, name=name, initial_events=events, schedule=schedule, **more)
        return Deployment.model_validate(self._transport.request("POST", "/v1/deployments", body=body, once=True))

    def list(self, *, include_archived: bool = False) -> Iterator[Deployment]:
        """Yield them, newest first, page after page."""
        params = {"include_archived": "true" if include_archived else None}
        for item in self._transport.pages("/v1/deployments", params=params):
            yield Deployment.model_validate(item)

    def get(self, deployment_id: str) -> Deployment:
        """Return one. Raises NotFound."""
        return Deployment.model_validate(self._transport.request("GET", _path(deployment_id)))

    def update(self, deployment_id: str, **change: Any) -> Deployment:
        """Change what is named, as the API has it; None clears. Raises NotFound, Conflict and InvalidRequest."""
        return Deployment.model_validate(self._transport.request("POST", _path(deployment_id), body=change))

    def archive(self, deployment_id: str) -> Deployment:
        """Archive a deployment, for good. Raises NotFound."""
        return Deployment.model_validate(self._transport.request("POST", _path(deployment_id, "archive")))

    def pause(self, deployment_id: str) -> Deployment:
        """Have its schedule start nothing. Raises NotFound and Conflict."""
        return Deployment.model_validate(self._transport.request("POST", _path(deployment_id, "pause")))

    def unpause(self, deployment_id: str) -> Deployment:
        """Let its schedule go on from now. Raises NotFound and Conflict."""
        return Deployment.model_validate(self._transport.request("POST", _path(deployment_id, "unpause")))

    def run(self, deployment_id: str) -> DeploymentRun:
        """Run it now. Raises NotFound and Conflict."""
        return DeploymentRun.model_validate(
            self._transport.request("POST", _path(deployment_id, "run"), body={}, once=True)
        )

    def get_run(self, run_id: str) -> DeploymentRun:
        """Return one run. Raises NotFound."""
        answer = self._transport.request("GET", f"/v1/deployment_runs/{segment(run_id)}")
        return DeploymentRun.model_validate(answer)

    def runs(self, deployment_id: str | None = None, *, has_error: bool | None = None) -> Iterator[DeploymentRun]:
        """Yield runs, of one deployment or of all, newest first."""
        failed = None if has_error is None else str(has_error).lower()
        for item in self._transport.pages(
            "/v1/deployment_runs", params={"deployment_id": deployment_id, "has_error": failed}
        ):
            yield DeploymentRun.model_validate(item)


class AsyncDeployments:
    """The same, asynchronously."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def create(
        self,
        agent: str,
        name: str,
        *,
        initial_events: Sequence[Mapping[str, Any]] | None = None,
        say: str | None = None,
        schedule: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> Deployment:
        """Make a deployment of an agent, by its name or id; `say` is short for one message of the user's.

        `schedule` is `{"type": "cron", "expression": "0 9 * * *", "timezone": "Europe/Berlin"}` or
        `{"type": "once", "at": …}`; `more` as `POST /v1/deployments` has it. Raises NotFound and InvalidRequest.
        """
        said = [{"type": "user.message", "content": [{"type": "text", "text": say}]}] if say is not None else []
        events = [*said, *(dict(event) for event in initial_events or ())]
        body = given(agent=agent, name=name, initial_events=events, schedule=schedule, **more)
        return Deployment.model_validate(await self._transport.request("POST", "/v1/deployments", body=body, once=True))

    async def list(self, *, include_archived: bool = False) -> AsyncIterator[Deployment]:
        """Yield them, newest first, page after page."""
        params = {"include_archived": "true" if include_archived else None}
        async for item in self._transport.pages("/v1/deployments", params=params):
            yield Deployment.model_validate(item)

    async def get(self, deployment_id: str) -> Deployment:
        """Return one. Raises NotFound."""
        return Deployment.model_validate(await self._transport.request("GET", _path(deployment_id)))

    async def update(self, deployment_id: str, **change: Any) -> Deployment:
        """Change what is named, as the API has it; None clears. Raises NotFound, Conflict and InvalidRequest."""
        return Deployment.model_validate(await self._transport.request("POST", _path(deployment_id), body=change))

    async def archive(self, deployment_id: str) -> Deployment:
        """Archive a deployment, for good. Raises NotFound."""
        return Deployment.model_validate(await self._transport.request("POST", _path(deployment_id, "archive")))

    async def pause(self, deployment_id: str) -> Deployment:
        """Have its schedule start nothing. Raises NotFound and Conflict."""
        return Deployment.model_validate(await self._transport.request("POST", _path(deployment_id, "pause")))

    async def unpause(self, deployment_id: str) -> Deployment:
        """Let its schedule go on from now. Raises NotFound and Conflict."""
        return Deployment.model_validate(await self._transport.request("POST", _path(deployment_id, "unpause")))

    async def run(self, deployment_id: str) -> DeploymentRun:
        """Run it now. Raises NotFound and Conflict."""
        return DeploymentRun.model_validate(
            await self._transport.request("POST", _path(deployment_id, "run"), body={}, once=True)
        )

    async def get_run(self, run_id: str) -> DeploymentRun:
        """Return one run. Raises NotFound."""
        answer = await self._transport.request("GET", f"/v1/deployment_runs/{segment(run_id)}")
        return DeploymentRun.model_validate(answer)

    async def runs(
        self, deployment_id: str | None = None, *, has_error: bool | None = None
    ) -> AsyncIterator[DeploymentRun]:
        """Yield runs, of one deployment or of all, newest first."""
        failed = None if has_error is None else str(has_error).lower()
        async for item in self._transport.pages(
            "/v1/deployment_runs", params={"deployment_id": deployment_id, "has_error": failed}
        ):
            yield DeploymentRun.model_validate(item)
