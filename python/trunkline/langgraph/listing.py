"""Lists of checkpoints, page by page."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from langgraph.checkpoint.base import CheckpointTuple

from trunkline.client.steps import Ask, Steps
from trunkline.client.threads import ThreadName, ThreadsOf
from trunkline.client.transport import segment

_PAGE = 20
"""Checkpoints that are read at once."""

Read = Callable[[str, Mapping[str, Any]], list[CheckpointTuple]]
"""Reads the checkpoints of a page of the wire, of the thread of this name."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which checkpoints a list holds; None: no limit. `user` counts where there is no `thread`."""

    thread: ThreadName | None
    user: str | None
    namespace: str | None
    checkpoint_id: str | None
    before: str | None
    metadata: Mapping[str, Any] | None


class Listing:
    """A list under way: `more` reads on, of one thread or of all that there are, the newest thread first."""

    def __init__(self, threads: ThreadsOf, read: Read, wanted: Wanted, limit: int | None) -> None:
        self._threads = threads
        self._read = read
        self._wanted = wanted
        self._left = limit
        self._waiting: list[tuple[str, str]] = []  # names and paths of threads yet to be read
        self._page: str | None = None
        self._threads_page: str | None = None
        self._all_seen = False

    def more(self) -> Steps[list[CheckpointTuple] | None]:
        """Return the next checkpoints, which may be none; None: that was all."""
        if self._left is not None and self._left <= 0:
            return None
        if not self._waiting and not self._all_seen:
            yield from self._look_for_threads()
        if not self._waiting:
            return None
        name, path = self._waiting[0]
        wanted = self._wanted
        params = {
            "namespace": wanted.namespace,
            "checkpoint_id": wanted.checkpoint_id,
            "before": wanted.before,
            "metadata": json.dumps(dict(wanted.metadata)) if wanted.metadata else None,
            "limit": _PAGE if self._left is None else min(self._left, _PAGE),
            "page": self._page,
        }
        answer = yield Ask("GET", f"{path}/checkpoints", params)
        found = self._read(name, answer)
        self._page = answer["next_page"]
        if self._page is None:
            del self._waiting[0]
        if self._left is not None:
            self._left -= len(found)
        return found

    def _look_for_threads(self) -> Steps[None]:
        of = self._wanted.thread
        if of is not None:
            self._all_seen = True
            # Asked anew, and so never of a thread that has gone since it was remembered.
            self._threads.forget(of.name)
            found = yield from self._threads.find(of)
            if found is not None:
                self._waiting.append((of.name, f"/v1/threads/{segment(found)}"))
            return
        params = {"framework": self._threads.framework, "user_id": self._wanted.user, "page": self._threads_page}
        answer = yield Ask("GET", "/v1/threads", params)
        self._waiting += [(one["name"], f"/v1/threads/{segment(one['id'])}") for one in answer["data"]]
        self._threads_page = answer["next_page"]
        self._all_seen = self._threads_page is None
