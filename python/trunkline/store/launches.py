"""Starting a session: the agent's version, the place, what is attached, and the first events, in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from trunkline.domain import ids
from trunkline.domain.agents import Agent
from trunkline.domain.principal import Principal
from trunkline.domain.repositories import RepositoryResource
from trunkline.domain.sessions import AgentReference, SessionRequest
from trunkline.domain.times import now
from trunkline.errors import Conflict, Forbidden, InvalidRequest, NotFound
from trunkline.store import agents, environments, events, repository_tokens, sessions, vaults
from trunkline.store.attachments import attached
from trunkline.store.leases import Wake
from trunkline.store.pool import Connection
from trunkline.store.sealing import Sealing
from trunkline.store.sessions import NewSession


async def launch(
    connection: Connection,
    principal: Principal,
    given: SessionRequest,
    *,
    wake: Wake | None,
    deployment_id: UUID | None = None,
    sealing: Sealing | None = None,
) -> UUID:
    """Start a session and return its id. Raises NotFound and Conflict whose `param` names what cannot be used.

    `sealing` seals the tokens of its repositories: what has none may not be given any.

    A key of one end user starts sessions with that user: Forbidden for another.
    """
    user = given.user if given.user is not None else principal.user_id
    if principal.user_id not in (None, user):
        raise Forbidden(
            f"The key {principal.key_name!r} speaks for one end user only, and not for this one.", param="user_id"
        )
    agent = await usable_agent(connection, principal, given.agent)
    environment_id = await usable_environment(connection, principal, given.environment_id)
    vault_ids = await usable_vaults(connection, principal, given.vault_ids)
    at = now()
    resources = await attached(connection, principal, given.resources, at)
    session_id = ids.new()
    limits = dict(agent.definition.get("limits") or {})
    cost = limits.pop("max_list_cost", None)
    budget = given.budget.model_dump() if given.budget else {"type": "limit", "max_list_cost": cost} if cost else None
    limits = {name: bound for name, bound in limits.items() if bound is not None} | given.limits.given()
    new = NewSession(
        session_id,
        agent.id,
        agent.version,
        user,
        given.title,
        given.metadata,
        resources,
        at,
        environment_id,
        vault_ids,
        deployment_id,
        budget,
        limits or None,
    )
    await sessions.create(connection, principal, new)
    for one, resource in zip(given.resources, resources, strict=True):
        if isinstance(one, RepositoryResource) and one.authorization_token is not None:
            if sealing is None:
                raise RuntimeError("the token of a repository has come where none can be kept")
            resource_id, token = ids.decode("sesrsc", resource["id"]), one.authorization_token.get_secret_value()
            await repository_tokens.put(
                connection, sealing, principal.tenant_id, session_id, resource_id=resource_id, token=token
            )
    if given.initial_events:
        await events.send(connection, principal, session_id, given.initial_events, wake=wake)
    return session_id


async def usable_agent(connection: Connection, principal: Principal, given: AgentReference) -> Agent:
    """Return the agent version that is asked for. Raises NotFound; Conflict when it is archived."""
    try:
        agent = await agents.get(connection, principal, given.id, given.version)
    except NotFound as error:
        raise NotFound(error.message, param="agent", code="agent_not_found") from error
    if agent.archived_at is not None:
        raise Conflict("The agent is archived and takes no new sessions.", param="agent", code="agent_archived")
    return agent


async def usable_environment(connection: Connection, principal: Principal, given: str | None) -> UUID | None:
    """Return the environment that is asked for, None for the default one. Raises NotFound; Conflict: archived."""
    if given is None:
        return None
    try:
        environment = await environments.get(connection, principal.tenant_id, given)
    except NotFound as error:
        raise NotFound(error.message, param="environment_id", code="environment_not_found") from error
    if environment.archived_at is not None:
        raise Conflict(
            "The environment is archived and takes no new sessions.",
            param="environment_id",
            code="environment_archived",
        )
    return None if environment.id == principal.tenant_id else environment.id


async def usable_vaults(connection: Connection, principal: Principal, given: Sequence[str]) -> tuple[UUID, ...]:
    """Return the vaults that are asked for. Raises NotFound; Conflict when one is archived; InvalidRequest: twice."""
    wanted = tuple(ids.decode("vlt", vault_id) for vault_id in given)
    if not wanted:
        return ()
    if len(set(wanted)) < len(wanted):
        raise InvalidRequest("A vault can be given once.", param="vault_ids")
    there = await vaults.there(connection, principal, wanted)
    for index, vault_id in enumerate(wanted):
        param = f"vault_ids[{index}]"
        if vault_id not in there:
            raise NotFound(
                f"There is no vault {given[index]}; GET /v1/vaults lists those there are.",
                param=param,
                code="vault_not_found",
            )
        if there[vault_id].archived_at is not None:
            raise Conflict(f"The vault {given[index]} is archived.", param=param, code="vault_archived")
    return wanted
