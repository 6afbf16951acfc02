-- The runtime's model calls: made once whichever worker asks, with the agent version that a session is pinned to. And workers:
-- who lives, so that what a dead one held is free at once; and the leases of all sessions of one worker renewed together.
set local role trunkline_owner;

-- Under whose name an idempotency key counts: the API key's own. All keys of a tenant's runtime are one there: the worker that takes
-- over a session asks with a key of its own, and is to be given what the dead one was.
create function trunkline.idempotency_owner(p_tenant uuid, p_key_id uuid) returns uuid
    language sql stable
    set search_path = trunkline, pg_temp
as $$
    select case when 'runtime' = any (k.scopes) then p_tenant else p_key_id end
      from api_keys k where k.tenant_id = p_tenant and k.id = p_key_id
$$;

-- As before, under the owner's name.
create or replace function trunkline.gateway_idempotency_begin(p_tenant uuid, p_key_id uuid, p_key bytea, p_request bytea,
                                                               p_call uuid, p_holder uuid, p_limit_ms bigint)
    returns table (state text, call_id uuid, answer text)
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
#variable_conflict use_column
declare
    kept  idempotent_calls;
    owner uuid := coalesce(idempotency_owner(p_tenant, p_key_id), p_key_id);
begin
    insert into idempotent_calls as i (tenant_id, key_id, key, request, call_id, holder, until, created_at)
    values (p_tenant, owner, p_key, p_request, p_call, p_holder,
            clock_timestamp() + p_limit_ms * interval '1 millisecond', clock_timestamp())
    on conflict on constraint idempotent_calls_pkey do update
       set request = excluded.request, call_id = excluded.call_id, holder = excluded.holder, until = excluded.until,
           answer = null, created_at = excluded.created_at
     where (i.answer is null and i.until < excluded.created_at) or i.created_at < excluded.created_at - interval '24 hours';
    if found then
        return query select 'begun', p_call, null::text;
        return;
    end if;
    select i.* into kept from idempotent_calls i where i.tenant_id = p_tenant and i.key_id = owner and i.key = p_key;
    return query select case when kept.request <> p_request then 'other' when kept.answer is not null then 'answered'
                             else 'under_way' end, kept.call_id, kept.answer::text;
end
$$;

-- As before, under the owners' names.
create or replace function trunkline.keep_answers(p_calls trunkline.call_row[]) returns void
    language plpgsql
    set search_path = trunkline, pg_temp
as $$
begin
    update idempotent_calls i set answer = c.idempotency -> 'answer'
      from unnest(p_calls) as c
     where i.tenant_id = c.tenant and i.key_id = coalesce(idempotency_owner(c.tenant, c.key), c.key)
       and i.key = decode(c.idempotency ->> 'key', 'hex') and i.call_id = c.call
       and c.idempotency ->> 'answer' is not null;
    delete from idempotent_calls i using unnest(p_calls) as c
     where i.tenant_id = c.tenant and i.key_id = coalesce(idempotency_owner(c.tenant, c.key), c.key)
       and i.key = decode(c.idempotency ->> 'key', 'hex') and i.call_id = c.call
       and c.idempotency ->> 'answer' is null;
end
$$;

-- An agent as the snapshot has it, in one of its versions; null: there is none. What it tells never changes.
create function trunkline.gateway_agent(p_tenant uuid, p_agent uuid, p_version int) returns jsonb
    language sql stable security definer
    set search_path = trunkline, pg_temp
as $$
    select jsonb_build_object(
               'tenant', a.tenant_id, 'id', a.id, 'name', a.name, 'version', v.version, 'model', v.model,
               'instructions', v.instructions, 'memory_enabled', v.memory_enabled,
               'memory_refresh', v.memory_refresh, 'memory_fail', v.memory_fail,
               'recall_tokens', v.recall_tokens, 'memory_tools', v.memory_tools,
               'prompt_cache', case when v.memory_enabled and v.prompt_cache_ttl is not null then jsonb_build_object(
                   'ttl_seconds', v.prompt_cache_ttl, 'delta_tokens', v.memory_budget / 2,
                   'cache_control', v.cache_control) end,
               'has_blocks', b.count > 0, 'has_session_blocks', b.of_sessions > 0)
      from agents a
      join agent_versions v on v.tenant_id = a.tenant_id and v.agent_id = a.id and v.version = p_version
     cross join lateral (select count(*) as count, count(*) filter (where scope = 'session') as of_sessions
                           from agent_blocks b where b.tenant_id = a.tenant_id and b.agent_id = a.id
                            and b.version = v.version) as b
     where a.tenant_id = p_tenant and a.id = p_agent
$$;

-- The workers that there are. One lives while a connection of its own holds the advisory lock of its name: the lock ends with
-- the connection, and that with the process, whatever killed it. It is held by one open transaction, which a pooler in
-- transaction mode lets through.
create table trunkline.workers (
    name       text        primary key,
    started_at timestamptz not null
);

-- Hold a worker's name as long as this transaction lasts.
create function trunkline.hold_worker(p_name text) returns void
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
begin
    perform set_config('idle_in_transaction_session_timeout', '0', true);
    perform pg_advisory_xact_lock(1414680395, hashtext(p_name)); -- 'TRNK'
end
$$;

-- Let it be known that there is a worker, who holds its name.
create function trunkline.register_worker(p_name text, p_at timestamptz) returns void
    language sql security definer
    set search_path = trunkline, pg_temp
as $$ insert into workers values (p_name, p_at) on conflict do nothing $$;

-- The workers whose names nobody holds.
create function trunkline.gone_workers() returns setof text
    language sql security definer
    set search_path = trunkline, pg_temp
as $$
    select w.name from workers w
     where not exists (select from pg_locks l
                        where l.locktype = 'advisory' and l.objsubid = 2 and l.granted
                          and l.database = (select d.oid from pg_database d where d.datname = current_database())
                          and l.classid::bigint = 1414680395 and l.objid::bigint = hashtext(w.name) & 4294967295::bigint)
$$;

-- Free what workers that are gone have held. Looks across tenants, and tells none of them.
create function trunkline.forget_workers(p_names text[]) returns void
    language sql security definer
    set search_path = trunkline, pg_temp
as $$
    update sessions s set lease_owner = null, lease_until = null
     where s.status = 'running' and s.lease_owner = any (p_names);
    delete from workers w where w.name = any (p_names);
$$;

-- Hold many sessions of any tenants for some seconds more. Those that another has claimed do not come back. `interrupted`: the user
-- has interrupted the agent since event number p_since.
create function trunkline.renew_leases(p_tenants uuid[], p_sessions uuid[], p_fences bigint[], p_since bigint[],
                                       p_seconds float8)
    returns table (session_id uuid, fence bigint, interrupted boolean)
    language sql security definer
    set search_path = trunkline, pg_temp
as $$
    with held as (
        select * from unnest(p_tenants, p_sessions, p_fences, p_since) as h (tenant, session, fence, since)
         order by tenant, session
    ), locked as (
        select s.tenant_id, s.id, h.since from held h
          join sessions s on s.tenant_id = h.tenant and s.id = h.session and s.lease_fence = h.fence
                         and s.lease_owner is not null
         order by s.tenant_id, s.id
           for no key update of s skip locked
    ), renewed as (
        update sessions s set lease_until = clock_timestamp() + p_seconds * interval '1 second'
          from locked l where s.tenant_id = l.tenant_id and s.id = l.id
        returning s.id
    )
    -- One whose row is locked is being written to just now, by its holder or by a client; it is renewed next time.
    select s.id, h.fence, s.last_seq > h.since and exists (
               select from events e where e.tenant_id = s.tenant_id and e.session_id = s.id and e.seq > h.since
                                      and e.type = 'user.interrupt')
      from held h
      join sessions s on s.tenant_id = h.tenant and s.id = h.session and s.lease_fence = h.fence and s.lease_owner is not null
$$;

revoke execute on function trunkline.idempotency_owner(uuid, uuid), trunkline.gateway_agent(uuid, uuid, int),
    trunkline.hold_worker(text), trunkline.register_worker(text, timestamptz), trunkline.gone_workers(),
    trunkline.forget_workers(text[]), trunkline.renew_leases(uuid[], uuid[], bigint[], bigint[], float8) from public;
grant execute on function trunkline.gateway_agent(uuid, uuid, int) to trunkline_gateway;
grant execute on function trunkline.hold_worker(text), trunkline.register_worker(text, timestamptz), trunkline.gone_workers(),
    trunkline.forget_workers(text[]), trunkline.renew_leases(uuid[], uuid[], bigint[], bigint[], float8) to trunkline_control;
