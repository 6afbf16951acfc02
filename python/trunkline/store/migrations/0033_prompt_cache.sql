-- What the prompts of a session begin with, kept so that providers find it in their caches.

set local role trunkline_owner;

alter table trunkline.agent_versions
    add column prompt_cache_ttl int default 300,     -- seconds that a provider's cache holds; null: rendered anew on every call
    add column cache_control    boolean not null default true;  -- whether breakpoints are placed in Anthropic's wire

-- One row a session, in the same transaction as the turn that it was sent with. Gone with its session.
create table trunkline.session_prompts (
    tenant_id     uuid  not null,
    session_id    uuid  not null,
    agent_version int   not null,
    prefix        text  not null,                    -- the blocks as they were rendered when the prefix was frozen
    deltas        jsonb not null,                    -- [[hex of the chain of a user message, what was put into it], …]
    used_at       timestamptz,                       -- the last call of a worker; null: the session's own time tells
    primary key (tenant_id, session_id),
    foreign key (tenant_id, session_id) references trunkline.sessions (tenant_id, id) on delete cascade
);
alter table trunkline.session_prompts enable row level security;
alter table trunkline.session_prompts force row level security;
create policy one_tenant on trunkline.session_prompts to trunkline_control
    using (tenant_id = trunkline.current_tenant()) with check (tenant_id = trunkline.current_tenant());
create policy owner on trunkline.session_prompts to trunkline_owner using (true) with check (true);

-- A fork begins as what it was forked from; deltas of messages that it does not have are passed over by whoever reads.
create function trunkline.prompt_forked() returns trigger
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
begin
    insert into session_prompts (tenant_id, session_id, agent_version, prefix, deltas, used_at)
    select p.tenant_id, new.id, p.agent_version, p.prefix, p.deltas, p.used_at
      from session_prompts p where p.tenant_id = new.tenant_id and p.session_id = new.parent_id
    on conflict do nothing;
    return null;
end
$$;
create trigger prompt_forked after insert on trunkline.sessions
    for each row when (new.parent_id is not null) execute function trunkline.prompt_forked();

-- Gateways keep copies; what was erased must not be said from them.
create function trunkline.prompts_deleted() returns trigger
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
begin
    if exists (select from gone) then
        perform pg_notify('trunkline_memory', '- prompts - -');
    end if;
    return null;
end
$$;
create trigger prompts_deleted after delete on trunkline.session_prompts referencing old table as gone
    for each statement execute function trunkline.prompts_deleted();

-- A version that is redacted must not go on being said: sessions that may have it in their prefix begin theirs anew. A session that
-- was not called for a day does so anyway, whatever its agent's `prompt_cache_ttl`.
create function trunkline.prompt_redacted() returns trigger
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
begin
    delete from session_prompts p
     using memory_stores m, sessions s
     where m.tenant_id = new.tenant_id and m.id = new.store_id and m.managed
       and s.tenant_id = new.tenant_id and s.updated_at > now() - interval '1 day'
       and case m.scope when 'user' then s.user_id = m.subject
                        when 'session' then s.id::text = m.subject
                        else true end
       and p.tenant_id = s.tenant_id and p.session_id = s.id;
    return null;
end
$$;
create trigger prompt_redacted after update of redacted_at on trunkline.memory_versions
    for each row when (old.redacted_at is null and new.redacted_at is not null) execute function trunkline.prompt_redacted();

-- As before, and with `p_prompt` what the session's prompts begin with: `prefix` (null: nothing is kept), `deltas`, the agent's
-- version that they are of, and for how many seconds the session has been idle.
drop function trunkline.gateway_context(uuid, uuid, int, text, uuid, bytea, text, int);
create function trunkline.gateway_context(p_tenant uuid, p_agent uuid, p_version int, p_user text, p_session uuid,
                                          p_chain bytea, p_query text, p_recall_tokens int, p_prompt boolean default false)
    returns table (session_id uuid, known boolean, at_head boolean, refused boolean, head bytea, blocks text, recall text,
                   prefix text, deltas text, prompt_version int, idle float8)
    language plpgsql stable security definer
    set search_path = trunkline, pg_temp
as $$
declare
    store uuid;
    log   sessions;
begin
    known := false;
    at_head := false;
    refused := false;
    session_id := p_session;
    if p_session is not null then
        select s.* into log from sessions s where s.tenant_id = p_tenant and s.id = p_session;
        known := found;
        if known then
            if log.agent_id <> p_agent or log.user_id is distinct from p_user then
                refused := true;
                return next;
                return;
            end if;
            at_head := log.head_chain is not distinct from p_chain;
            if not at_head and p_chain is not null then
                select s.id into session_id from sessions s
                 where s.tenant_id = p_tenant and s.agent_id = p_agent and s.head_chain = p_chain and s.root_id = log.root_id
                 order by s.updated_at desc limit 1;
                at_head := found;
                session_id := coalesce(session_id, p_session);
            end if;
            if not at_head then
                head := log.head_chain;
            end if;
        end if;
    elsif p_chain is not null then
        select s.id into session_id from sessions s
         where s.tenant_id = p_tenant and s.agent_id = p_agent and s.head_chain = p_chain
           and s.user_id is not distinct from p_user
         order by s.updated_at desc limit 1;
        known := found;
        at_head := found;
    end if;

    blocks := rendered_blocks(p_tenant, p_agent, p_version, p_user, session_id);
    if p_prompt and session_id is not null then
        select p.prefix, p.deltas::text, p.agent_version,
               extract(epoch from clock_timestamp() - coalesce(p.used_at, s.updated_at))::float8
          into prefix, deltas, prompt_version, idle
          from session_prompts p join sessions s on s.tenant_id = p.tenant_id and s.id = p.session_id
         where p.tenant_id = p_tenant and p.session_id = gateway_context.session_id;
    end if;

    if p_recall_tokens > 0 and p_query is not null and p_user is not null then
        select s.id into store from memory_stores s
         where s.tenant_id = p_tenant and s.managed and s.owner_key = 'user ' || p_agent::text || ' ' || p_user;
        if found then
            select string_agg(format('- [%s %s] %s', to_char(r.created_at at time zone 'UTC', 'YYYY-MM-DD'), r.role,
                                     replace(replace(regexp_replace(r.content, '\s+', ' ', 'g'), '<', '\u003c'), '>', '\u003e')),
                              E'\n' order by r.created_at, r.passage_id) into recall
              from recall(p_tenant, store, p_query, 20, p_recall_tokens, session_id) r;
        end if;
    end if;
    return next;
end
$$;

-- Keep what prompts begin with: {session, fork, version, prefix (where it is new), deltas, used (by a worker)} of each call.
-- Where the turn became a fork, it is the fork's.
alter type trunkline.call_row add attribute prompt jsonb;
create function trunkline.keep_prompts(p_calls trunkline.call_row[]) returns void
    language sql
    set search_path = trunkline, pg_temp
    set enable_hashjoin = off
    set enable_mergejoin = off
    set enable_seqscan = off
as $$
    with said as (
        select c.ordinality as nth, c.tenant, coalesce(f.id, (c.prompt ->> 'session')::uuid) as session, c.prompt,
               case when (c.prompt ->> 'used')::boolean then c.at end as used_at
          from unnest(p_calls) with ordinality as c
          left join sessions f on f.tenant_id = c.tenant and f.id = (c.prompt ->> 'fork')::uuid
         where c.prompt is not null
    ), prompts as materialized (
        select tenant, session, max(used_at) as used_at, (array_agg(prompt order by nth desc))[1] as newest,
               (array_agg(prompt ->> 'prefix' order by nth desc) filter (where prompt ? 'prefix'))[1] as prefix
          from said group by tenant, session
    ), moved as (
        update session_prompts p
           set agent_version = (n.newest ->> 'version')::int, prefix = coalesce(n.prefix, p.prefix),
               deltas = n.newest -> 'deltas', used_at = coalesce(n.used_at, p.used_at)
          from prompts n where p.tenant_id = n.tenant and p.session_id = n.session
    )
    insert into session_prompts (tenant_id, session_id, agent_version, prefix, deltas, used_at)
    select n.tenant, n.session, (n.newest ->> 'version')::int, n.prefix, n.newest -> 'deltas', n.used_at
      from prompts n join sessions s on s.tenant_id = n.tenant and s.id = n.session
     where n.prefix is not null
    on conflict (tenant_id, session_id) do nothing
$$;

-- As before, and what prompts begin with, once their sessions are there.
create or replace function trunkline.gateway_record(p_calls trunkline.call_row[]) returns int
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
declare
    fresh call_row[];
begin
    begin
        insert into usage (tenant_id, id, created_at, key_id, team_id, agent_id, session_id, user_id, model, provider,
                           upstream_model, wire, stream, status, error_type, input_tokens, output_tokens, cached_tokens,
                           cache_write_tokens, reasoning_tokens, estimated, cost_usd, source, rounds, retries, first_byte_us,
                           total_us, overhead_us)
        select tenant, call, at, key, team, agent, session, user_id, model, provider, upstream_model, wire, stream, status,
               error_type, input_tokens, output_tokens, cached_tokens, cache_write_tokens, reasoning_tokens, estimated,
               cost_usd, source, rounds, retries, first_byte_us, total_us, overhead_us
          from unnest(p_calls);
    exception when unique_violation then
        -- Sent again, because the answer to the first time was lost or its gateway died: only what is not there yet.
        select coalesce(array_agg(p_calls[c.nth] order by c.nth), '{}') into fresh
          from (select min(ordinality) as nth from unnest(p_calls) with ordinality
                 where not exists (select from usage u where u.tenant_id = tenant and u.id = call and u.created_at = at)
                 group by tenant, call, at) as c;
        return gateway_record(fresh);
    end;

    if exists (select from unnest(p_calls) as c where c.turn is not null) then
        perform record_turns(p_calls);
    end if;
    if exists (select from unnest(p_calls) as c where c.prompt is not null) then
        perform keep_prompts(p_calls);
    end if;
    if exists (select from unnest(p_calls) as c where c.idempotency is not null) then
        perform keep_answers(p_calls);
    end if;
    if exists (select from unnest(p_calls) as c where c.bodies is not null) then
        perform store_bodies(p_calls);
    end if;
    perform charge_calls(p_calls);
    return cardinality(p_calls);
end
$$;

-- As before, and how an agent's prompts are kept.
create or replace function trunkline.gateway_snapshot() returns jsonb
    language plpgsql stable security definer
    set search_path = trunkline, pg_temp
as $$
declare
    revision bigint := gateway_revision();
begin
    return jsonb_build_object(
        'revision', revision,
        'keys', (select coalesce(jsonb_agg(jsonb_build_object(
                     'hash', encode(k.hash, 'hex'), 'tenant', k.tenant_id, 'id', k.id, 'name', k.name, 'scopes', k.scopes,
                     'agent', k.agent_id, 'team', k.team_id, 'user', k.user_id, 'models', k.models,
                     'expires_at', extract(epoch from k.expires_at)::float8, 'limits', limits_json(l),
                     'limits_users', u.kind is not null)), '[]')
                   from api_keys k
                   left join limits l on l.tenant_id = k.tenant_id and l.kind = 'key' and l.subject = k.id::text
                   left join limits u on u.tenant_id = k.tenant_id and u.kind = 'users_of_key' and u.subject = k.id::text
                  where k.revoked_at is null and (k.expires_at is null or k.expires_at > now())),
        'teams', (select coalesce(jsonb_agg(jsonb_build_object(
                     'tenant', t.tenant_id, 'id', t.id, 'name', t.name, 'limits', limits_json(l),
                     'limits_users', u.kind is not null)), '[]')
                   from teams t
                   left join limits l on l.tenant_id = t.tenant_id and l.kind = 'team' and l.subject = t.id::text
                   left join limits u on u.tenant_id = t.tenant_id and u.kind = 'users_of_team' and u.subject = t.id::text
                  where t.archived_at is null),
        'tenants_with_user_limits', (select coalesce(jsonb_agg(t.id), '[]') from tenants t
                  where exists (select from limits l where l.tenant_id = t.id and l.kind = 'user')),
        'agents', (select coalesce(jsonb_agg(jsonb_build_object(
                     'tenant', a.tenant_id, 'id', a.id, 'name', a.name, 'version', v.version, 'model', v.model,
                     'instructions', v.instructions, 'memory_enabled', v.memory_enabled,
                     'memory_refresh', v.memory_refresh, 'memory_fail', v.memory_fail,
                     'recall_tokens', v.recall_tokens, 'memory_tools', v.memory_tools,
                     'prompt_cache', case when v.memory_enabled and v.prompt_cache_ttl is not null then jsonb_build_object(
                         'ttl_seconds', v.prompt_cache_ttl, 'delta_tokens', v.memory_budget / 2,
                         'cache_control', v.cache_control) end,
                     'has_blocks', b.count > 0, 'has_session_blocks', b.of_sessions > 0)), '[]')
                   from agents a
                   join agent_versions v on v.tenant_id = a.tenant_id and v.agent_id = a.id and v.version = a.current_version
                  cross join lateral (select count(*) as count, count(*) filter (where scope = 'session') as of_sessions
                                        from agent_blocks b where b.tenant_id = a.tenant_id and b.agent_id = a.id
                                         and b.version = v.version) as b
                  where a.archived_at is null));
end
$$;

revoke execute on function trunkline.prompt_forked(), trunkline.prompts_deleted(), trunkline.prompt_redacted(),
    trunkline.keep_prompts(trunkline.call_row[]),
    trunkline.gateway_context(uuid, uuid, int, text, uuid, bytea, text, int, boolean) from public;
grant execute on function trunkline.gateway_context(uuid, uuid, int, text, uuid, bytea, text, int, boolean) to trunkline_gateway;
