from __future__ import annotations

from datetime import datetime
from typing import Any

from trunkline.client.wire import Wire


class AuditResource(Wire):
    """What was changed. The id of an end user is a digest."""

    type: str
    id: str
    name: str | None = None


class AuditEntry(Wire):
    """One change: `changed` has the names of the fields, never what they hold."""

    id: str
    created_at: datetime
    action: str
    resource: AuditResource
    changed: tuple[str, ...] = ()
    key_id: str | None = None
    request_id: str | None = None


def audit_params(
    *,
    resource_type: str | None,
    resource_id: str | None,
    user_id: str | None,
    key_id: str | None,
    since: datetime | None,
    until: datetime | None,
) -> dict[str, Any]:
    """Return the query of `GET /v1/audit_log`."""
    return {
        "resource_type": resource_type,
        "resource_id": resource_id,
        "user_id": user_id,
        "key_id": key_id,
        "created_at[gte]": None if since is None else since.isoformat(),
        "created_at[lt]": None if until is None else until.isoformat(),
    }
