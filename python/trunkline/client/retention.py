from __future__ import annotations

from trunkline.client.wire import Wire


class Retention(Wire):
    """For how long sessions, and events of those that stay, are kept, as `90d`; None: for ever."""

    sessions: str | None = None
    events: str | None = None
