"""Tenants: separate worlds in one database. The operator makes them, and sees into none."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse

from trunkline.api.deps import DatabaseDependency, PrincipalDependency
from trunkline.domain import ids
from trunkline.domain.keys import Key, digest, hint, new_text
from trunkline.domain.times import now
from trunkline.store import keys

router = APIRouter(prefix="/v1/tenants", tags=["tenants"])

_FIRST_SCOPES = ("inference", "memory", "manage")


class TenantRequest(BaseModel):
    """A new tenant."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]


@router.post("")
async def create(given: TenantRequest, principal: PrincipalDependency, database: DatabaseDependency) -> JSONResponse:
    """Make a tenant and its first key, whose text is in this answer and nowhere else.

    It has all scopes but 'operator' and 'passthrough': both reach beyond the tenant.
    """
    principal.require("operator")
    at, tenant_id, text = now(), ids.new(), new_text()
    key = Key(ids.new(), "admin", hint(text), _FIRST_SCOPES, at)
    async with database.tenant(tenant_id) as connection:
        await keys.create_tenant(connection, tenant_id, given.name, at)
        await keys.create(connection, tenant_id, key, digest(text))
    answer: dict[str, Any] = {"id": ids.encode("tnt", tenant_id), "type": "tenant", "name": given.name, "key": text}
    return JSONResponse(answer)
