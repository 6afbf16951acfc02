"""Threads: finding the thread of a name, and keeping its id at hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from trunkline.client.steps import Ask, Steps
from trunkline.client.transport import segment
from trunkline.errors import NotFound

Result = TypeVar("Result")

_MOST_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class ThreadName:
    """A framework's own name of a thread, and whose it is: a user of the application, a session; None: nobody's."""

    name: str
    user: str | None = None
    session: str | None = None


class ThreadsOf:
    """The threads of one framework. Ids that were looked up are remembered; one that has gone is looked up again."""

    def __init__(self, framework: str) -> None:
        self.framework = framework
        self._ids: dict[ThreadName, str] = {}

    def find(self, of: ThreadName) -> Steps[str | None]:
        """Return the id of a thread; None: there is none for this user."""
        if of in self._ids:
            return self._ids[of]
        answer = yield Ask(
            "GET", "/v1/threads", {"framework": self.framework, "name": of.name, "user_id": of.user, "limit": 1}
        )
        return self._remember(of, answer["data"][0]["id"]) if answer["data"] else None

    def open(self, of: ThreadName) -> Steps[str]:
        """Return the id of a thread, made if there was none. Raises Conflict where it is another's."""
        if of in self._ids:
            return self._ids[of]
        body = {"framework": self.framework, "name": of.name, "user_id": of.user, "session_id": of.session}
        answer = yield Ask("POST", "/v1/threads", body=body)
        return self._remember(of, answer["id"])

    def within(self, of: ThreadName, use: Callable[[str], Steps[Result]]) -> Steps[Result]:
        """Return what `use` gives on the path of a thread, which is made if there was none."""
        remembered = of in self._ids
        thread = yield from self.open(of)
        try:
            return (yield from use(_path(thread)))
        except NotFound:
            if not remembered:
                raise
        self.forget(of.name)
        thread = yield from self.open(of)
        return (yield from use(_path(thread)))

    def within_existing(self, of: ThreadName, use: Callable[[str], Steps[Result]]) -> Steps[Result | None]:
        """Return what `use` gives on the path of a thread; None: there is no such thread."""
        while True:
            remembered = of in self._ids
            thread = yield from self.find(of)
            if thread is None:
                return None
            try:
                return (yield from use(_path(thread)))
            except NotFound:
                self.forget(of.name)
                if not remembered:
                    return None

    def forget(self, name: str) -> None:
        """Look up the thread of this name when it is asked for next."""
        for of in [one for one in list(self._ids) if one.name == name]:
            self._ids.pop(of, None)

    def _remember(self, of: ThreadName, thread: str) -> str:
        if len(self._ids) >= _MOST_REMEMBERED:
            self._ids.clear()
        self._ids[of] = thread
        return thread


def _path(thread: str) -> str:
    return f"/v1/threads/{segment(thread)}"
