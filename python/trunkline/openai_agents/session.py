from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import httpx
from agents import TResponseInputItem
from agents.memory.session import SessionABC
from agents.memory.session_settings import SessionSettings, resolve_session_limit

from trunkline.client.steps import Link
from trunkline.client.thread_items import ThreadItems
from trunkline.client.threads import ThreadName


class TrunklineSession(SessionABC):
    """A conversation of the Agents SDK: `Runner.run(agent, "Hello", session=TrunklineSession("case 7"))`.

    `session_id` is a name of your own; scope `memory`. Without further arguments it finds Trunkline as `Trunkline()`
    does. The conversation belongs to `user` and goes with the session `session` (`sesn_…`), where given: it is erased
    with them, and to another user it is not there. Items come back as they went in. Methods raise the errors of
    `trunkline.errors`: Conflict for another user's conversation, TooLarge for an item of more than 4 MiB.
    """

    def __init__(
        self,
        session_id: str,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        user: str | None = None,
        session: str | None = None,
        session_settings: SessionSettings | None = None,
        timeout_s: float = 30.0,
        async_http: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.session_id = session_id
        self.session_settings = session_settings or SessionSettings()
        self._link = Link(base_url, api_key, timeout_s=timeout_s, async_http=async_http)
        self._items = ThreadItems("openai-agents", ThreadName(session_id, user, session))

    async def get_items(self, limit: int | None = None) -> list[TResponseInputItem]:
        """Return the conversation, or its newest `limit` items, oldest first."""
        wanted = resolve_session_limit(limit, self.session_settings)
        found = await self._link.carry_out_async(self._items.newest(wanted))
        return cast("list[TResponseInputItem]", found)

    async def add_items(self, items: list[TResponseInputItem]) -> None:
        """Add items at the end."""
        await self._link.carry_out_async(self._items.append(cast("list[Mapping[str, Any]]", items)))

    async def pop_item(self) -> TResponseInputItem | None:
        """Take the newest item back; None: there is none."""
        return cast("TResponseInputItem | None", await self._link.carry_out_async(self._items.pop()))

    async def clear_session(self) -> None:
        """Delete all items."""
        await self._link.carry_out_async(self._items.clear())

    async def close(self) -> None:
        """Close the connections of this event loop."""
        await self._link.close_async()
