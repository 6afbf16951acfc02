from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from types import TracebackType
from typing import Any

import httpx
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    get_checkpoint_id,
)
from langgraph.checkpoint.serde.base import SerializerProtocol

from trunkline.client.steps import Ask, Link, Steps
from trunkline.client.threads import ThreadName, ThreadsOf
from trunkline.client.transport import segment
from trunkline.langgraph.listing import Listing, Wanted
from trunkline.langgraph.wire import config_of, configurable, from_wire, to_wire, writes_to_wire


class TrunklineSaver(BaseCheckpointSaver[str]):
    """A checkpointer over Trunkline's API: `graph.compile(checkpointer=TrunklineSaver())`; scope `memory`.

    Without arguments it finds Trunkline as `Trunkline()` does. A thread belongs to `user` (or to the run's
    `configurable["user_id"]`) and goes with the session `session` (`sesn_…`), where given: it is erased with them, and
    to another user it is not there. Every method raises the errors of `trunkline.errors`: TooLarge for states over the
    bounds, Conflict for a thread of another user. Usable from any thread and event loop.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        user: str | None = None,
        session: str | None = None,
        serde: SerializerProtocol | None = None,
        timeout_s: float = 30.0,
        http: httpx.BaseTransport | None = None,
        async_http: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(serde=serde)
        self._link = Link(base_url, api_key, timeout_s=timeout_s, http=http, async_http=async_http)
        self._threads = ThreadsOf("langgraph")
        self._user = user
        self._session = session

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Return the checkpoint that a config names, or the thread's newest; None: there is none."""
        return self._link.carry_out(self._get(config))

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Return the checkpoint that a config names, or the thread's newest; None: there is none."""
        return await self._link.carry_out_async(self._get(config))

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - the interface's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Yield a thread's checkpoints, newest first; without `config`, those of all threads."""
        listing = self._listing(config, filter, before, limit)
        while (page := self._link.carry_out(listing.more())) is not None:
            yield from page

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - the interface's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Yield checkpoints, as `list` does."""
        listing = self._listing(config, filter, before, limit)
        while (page := await self._link.carry_out_async(listing.more())) is not None:
            for found in page:
                yield found

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Keep a checkpoint, and of its channels what is new; returns the config that names it."""
        return self._link.carry_out(self._put(config, checkpoint, metadata, new_versions))

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Keep a checkpoint, as `put` does."""
        return await self._link.carry_out_async(self._put(config, checkpoint, metadata, new_versions))

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Keep what a task of the step after a checkpoint wrote."""
        self._link.carry_out(self._put_writes(config, writes, task_id, task_path))

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Keep what a task of the step after a checkpoint wrote."""
        await self._link.carry_out_async(self._put_writes(config, writes, task_id, task_path))

    def delete_thread(self, thread_id: str) -> None:
        """Delete a thread with all its checkpoints; one that is not there is no error."""
        self._link.carry_out(self._delete(thread_id))

    async def adelete_thread(self, thread_id: str) -> None:
        """Delete a thread with all its checkpoints; one that is not there is no error."""
        await self._link.carry_out_async(self._delete(thread_id))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints of runs in all threads, and what only they hold."""
        self._link.carry_out(self._delete_runs(run_ids))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints of runs in all threads, and what only they hold."""
        await self._link.carry_out_async(self._delete_runs(run_ids))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy a thread's checkpoints, all of them, to another thread, of the same user and session."""
        self._link.carry_out(self._copy(source_thread_id, target_thread_id))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy a thread's checkpoints, all of them, to another thread, of the same user and session."""
        await self._link.carry_out_async(self._copy(source_thread_id, target_thread_id))

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Delete all checkpoints of threads ("delete"), or all but what the newest of each namespace needs."""
        self._link.carry_out(self._prune(thread_ids, strategy))

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Delete all checkpoints of threads ("delete"), or all but what the newest of each namespace needs."""
        await self._link.carry_out_async(self._prune(thread_ids, strategy))

    def get_next_version(self, current: str | float | None, channel: None) -> str:
        """Return a version after `current`; two forks of a thread never make the same one."""
        del channel
        number = 0 if current is None else int(str(current).partition(".")[0])
        return f"{number + 1:032}.{secrets.token_hex(8)}"

    def close(self) -> None:
        """Close the connections of synchronous calls."""
        self._link.close()

    async def aclose(self) -> None:
        """Close all connections of this event loop."""
        await self._link.close_async()

    def __enter__(self) -> TrunklineSaver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> TrunklineSaver:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _of(self, config: RunnableConfig) -> ThreadName:
        of = configurable(config)
        user = self._user or of.get("user_id")
        return ThreadName(str(of["thread_id"]), None if user is None else str(user), self._session)

    def _named(self, thread_id: str) -> ThreadName:
        return ThreadName(str(thread_id), self._user, self._session)

    def _listing(
        self,
        config: RunnableConfig | None,
        members: dict[str, Any] | None,
        before: RunnableConfig | None,
        limit: int | None,
    ) -> Listing:
        of = None if config is None else configurable(config)
        wanted = Wanted(
            None if config is None else self._of(config),
            self._user,
            None if of is None else of.get("checkpoint_ns"),
            None if of is None else of.get("checkpoint_id"),
            None if before is None else get_checkpoint_id(before),
            members,
        )
        return Listing(self._threads, lambda name, page: from_wire(self.serde, name, page), wanted, limit)

    def _get(self, config: RunnableConfig) -> Steps[CheckpointTuple | None]:
        of = self._of(config)
        namespace = configurable(config).get("checkpoint_ns") or ""
        checkpoint_id = get_checkpoint_id(config)

        def use(path: str) -> Steps[CheckpointTuple | None]:
            params = {"namespace": namespace, "checkpoint_id": checkpoint_id, "limit": 1}
            page = yield Ask("GET", f"{path}/checkpoints", params)
            found = from_wire(self.serde, of.name, page)
            return found[0] if found else None

        return (yield from self._threads.within_existing(of, use))

    def _put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> Steps[RunnableConfig]:
        of = self._of(config)
        body = to_wire(self.serde, config, checkpoint, metadata, new_versions)

        def use(path: str) -> Steps[None]:
            yield Ask("POST", f"{path}/checkpoints", body=body)

        yield from self._threads.within(of, use)
        return config_of(of.name, body["namespace"], checkpoint["id"])

    def _put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str
    ) -> Steps[None]:
        if not writes:
            return
        checkpoint_id = str(configurable(config)["checkpoint_id"])
        body = writes_to_wire(self.serde, config, writes, task_id, task_path)

        def use(path: str) -> Steps[None]:
            yield Ask("POST", f"{path}/checkpoints/{segment(checkpoint_id)}/writes", body=body)

        yield from self._threads.within(self._of(config), use)

    def _delete(self, thread_id: str) -> Steps[None]:
        def use(path: str) -> Steps[None]:
            yield Ask("DELETE", path)

        of = self._named(thread_id)
        yield from self._threads.within_existing(of, use)
        self._threads.forget(of.name)

    def _delete_runs(self, run_ids: Sequence[str]) -> Steps[None]:
        if run_ids:
            yield Ask("POST", "/v1/threads/delete_runs", body={"run_ids": list(run_ids), "user_id": self._user})

    def _copy(self, source_thread_id: str, target_thread_id: str) -> Steps[None]:
        def use(path: str) -> Steps[None]:
            target = yield from self._threads.open(self._named(target_thread_id))
            yield Ask("POST", f"{path}/copy", body={"thread_id": target})

        yield from self._threads.within_existing(self._named(source_thread_id), use)

    def _prune(self, thread_ids: Sequence[str], strategy: str) -> Steps[None]:
        if strategy not in ("keep_latest", "delete"):
            raise ValueError(f"The strategy is {strategy!r}: expected 'keep_latest' or 'delete'.")

        def use(path: str) -> Steps[None]:
            yield Ask("POST", f"{path}/prune")

        for thread_id in thread_ids:
            if strategy == "delete":
                yield from self._delete(thread_id)
            else:
                yield from self._threads.within_existing(self._named(thread_id), use)
