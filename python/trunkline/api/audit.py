"""The audit log. Keys of one agent do not read it: it tells of all of the tenant."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import AwareDatetime
from starlette.responses import JSONResponse

from trunkline.api import paging
from trunkline.api.deps import Manager
from trunkline.api.memory_caller import UserId
from trunkline.domain import ids
from trunkline.domain.audit import AuditEntry, ResourceType
from trunkline.errors import InvalidRequest
from trunkline.store import audit
from trunkline.store.audit import AuditFilter

router = APIRouter(prefix="/v1/audit_log", tags=["audit log"])


@router.get("")
async def list_entries(
    *,
    caller: Manager,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    page: str | None = None,
    resource_type: ResourceType | None = None,
    resource_id: Annotated[str | None, Query(min_length=1, max_length=256)] = None,
    user_id: UserId | None = None,
    key_id: str | None = None,
    created_from: Annotated[AwareDatetime | None, Query(alias="created_at[gte]")] = None,
    created_to: Annotated[AwareDatetime | None, Query(alias="created_at[lt]")] = None,
) -> JSONResponse:
    """List what was changed, newest first: by which key, in which request, and the names of the fields.

    `key_id` is who changed something; `resource_id` what was changed; `user_id` is the end user whose limits were.
    """
    caller.principal.require_whole_tenant("read the audit log")
    if user_id is not None:
        if resource_id is not None:
            raise InvalidRequest("Give one of user_id and resource_id.", param="user_id")
        resource_id = await audit.digest_of_user(caller.connection, caller.principal.tenant_id, user_id)
    key = None if key_id is None else ids.decode("key", key_id)
    wanted = AuditFilter(resource_type, resource_id, key, created_from, created_to)
    found = await audit.page(caller.connection, caller.principal.tenant_id, wanted, paging.read_time(page), limit + 1)
    return JSONResponse(
        paging.page(found, limit, AuditEntry.to_wire, lambda entry: paging.at_time(entry.created_at, entry.id))
    )
