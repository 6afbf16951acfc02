from __future__ import annotations

import json
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import httpx
from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter

from trunkline.client.steps import Link
from trunkline.client.thread_items import ThreadItems
from trunkline.client.threads import ThreadName


class History:
    """The messages of one conversation, under a name of your own; scope `memory`.

    ```python
    history = History("case 7", user="cus_42")
    result = agent.run_sync("Hello", message_history=history.load())
    history.append(result.new_messages())
    ```

    Without further arguments it finds Trunkline as `Trunkline()` does. The conversation belongs to `user` and goes with
    the session `session` (`sesn_…`), where given: it is erased with them, and to another user it is not there. Methods
    raise the errors of `trunkline.errors`: Conflict for another user's conversation, TooLarge for a message over 4 MiB.
    Those that begin with `a` are for asynchronous programs.
    """

    def __init__(
        self,
        name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        user: str | None = None,
        session: str | None = None,
        timeout_s: float = 30.0,
        http: httpx.BaseTransport | None = None,
        async_http: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._link = Link(base_url, api_key, timeout_s=timeout_s, http=http, async_http=async_http)
        self._items = ThreadItems("pydantic-ai", ThreadName(name, user, session))

    def load(self, limit: int | None = None) -> list[ModelMessage]:
        """Return all messages, or the newest `limit`, oldest first."""
        return _read(self._link.carry_out(self._items.newest(limit)))

    async def aload(self, limit: int | None = None) -> list[ModelMessage]:
        """Return all messages, or the newest `limit`, oldest first."""
        return _read(await self._link.carry_out_async(self._items.newest(limit)))

    def append(self, messages: Sequence[ModelMessage]) -> None:
        """Add messages, as `result.new_messages()` gives them."""
        self._link.carry_out(self._items.append(_written(messages)))

    async def aappend(self, messages: Sequence[ModelMessage]) -> None:
        """Add messages, as `result.new_messages()` gives them."""
        await self._link.carry_out_async(self._items.append(_written(messages)))

    def save(self, messages: Sequence[ModelMessage]) -> None:
        """Put messages in the place of all that are kept, as `result.all_messages()` gives them."""
        self._link.carry_out(self._items.replace(_written(messages)))

    async def asave(self, messages: Sequence[ModelMessage]) -> None:
        """Put messages in the place of all that are kept, as `result.all_messages()` gives them."""
        await self._link.carry_out_async(self._items.replace(_written(messages)))

    def clear(self) -> None:
        """Delete all messages."""
        self._link.carry_out(self._items.clear())

    async def aclear(self) -> None:
        """Delete all messages."""
        await self._link.carry_out_async(self._items.clear())

    def close(self) -> None:
        """Close the connections of synchronous calls."""
        self._link.close()

    async def aclose(self) -> None:
        """Close all connections of this event loop."""
        await self._link.close_async()

    def __enter__(self) -> History:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> History:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _written(messages: Sequence[ModelMessage]) -> list[dict[str, Any]]:
    written: list[dict[str, Any]] = ModelMessagesTypeAdapter.dump_python(list(messages), mode="json")
    return written


def _read(items: list[dict[str, Any]]) -> list[ModelMessage]:
    # As JSON: there bytes and times are what `_written` made of them.
    return ModelMessagesTypeAdapter.validate_json(json.dumps(items))
