"""The items of a thread, in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trunkline.client.steps import Ask, Steps
from trunkline.client.threads import ThreadName, ThreadsOf

_PAGE = 1000
_AT_ONCE = 1000

Item = dict[str, Any]


class ThreadItems:
    """What a framework keeps of one conversation: JSON objects, given back as they came."""

    def __init__(self, framework: str, of: ThreadName) -> None:
        self._threads = ThreadsOf(framework)
        self._of = of

    def newest(self, limit: int | None = None) -> Steps[list[Item]]:
        """Return the newest `limit` items, or all, oldest first; none where there is no such thread."""
        if limit is not None and limit <= 0:
            return []

        def use(path: str) -> Steps[list[Item]]:
            found: list[Item] = []
            page: str | None = None
            while limit is None or len(found) < limit:
                size = _PAGE if limit is None else min(limit - len(found), _PAGE)
                answer = yield Ask("GET", f"{path}/items", {"order": "desc", "limit": size, "page": page})
                found += [one["item"] for one in answer["data"]]
                page = answer["next_page"]
                if page is None:
                    break
            return found[::-1]

        return (yield from self._threads.within_existing(self._of, use)) or []

    def append(self, items: Sequence[Mapping[str, Any]]) -> Steps[None]:
        """Add items at the end, a thousand at a time; those of one request all or none."""
        for start in range(0, len(items), _AT_ONCE):
            some = [dict(item) for item in items[start : start + _AT_ONCE]]
            yield from self._threads.within(self._of, lambda path, some=some: _write("POST", path, some))  # type: ignore[misc]

    def replace(self, items: Sequence[Mapping[str, Any]]) -> Steps[None]:
        """Put items in the place of all that are there, in one request of at most 10,000."""
        yield from self._threads.within(self._of, lambda path: _write("PUT", path, [dict(item) for item in items]))

    def pop(self) -> Steps[Item | None]:
        """Take the newest item back; None: there is none."""

        def use(path: str) -> Steps[Item | None]:
            answer = yield Ask("POST", f"{path}/items/pop")
            item: Item | None = answer["item"]
            return item

        return (yield from self._threads.within_existing(self._of, use))

    def clear(self) -> Steps[None]:
        """Delete all items."""

        def use(path: str) -> Steps[None]:
            yield Ask("DELETE", f"{path}/items")

        yield from self._threads.within_existing(self._of, use)


def _write(method: str, path: str, items: list[Item]) -> Steps[None]:
    yield Ask(method, f"{path}/items", body={"items": items})
