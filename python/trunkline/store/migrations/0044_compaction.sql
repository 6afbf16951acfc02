-- Long conversations leave their prompts, oldest turns first, and stay in the log and in recall.

set local role trunkline_owner;

alter table trunkline.agent_versions
    add column context_tokens int,         -- how many tokens of a conversation its prompts may hold; null: all of it
    add column context_turns  int;         -- the newest turns that stay in any case

-- Each says by `kept_from_seq` with which event prompts begin from then on; the last one holds.
create index events_compacted on trunkline.events (tenant_id, session_id, seq) where type = 'agent.thread_context_compacted';

-- When what a session's prompts begin with was said; null: they hold all of it.
create function trunkline.kept_since(p_tenant uuid, p_session uuid) returns timestamptz
    language sql stable
    set search_path = trunkline, pg_temp
as $$
    select k.created_at
      from (select (e.payload ->> 'kept_from_seq')::bigint as seq from events e
             where e.tenant_id = p_tenant and e.session_id = p_session and e.type = 'agent.thread_context_compacted'
             order by e.seq desc limit 1) as last
      join events k on k.tenant_id = p_tenant and k.session_id = p_session and k.seq = last.seq
$$;

alter function trunkline.recall(uuid, uuid, text, int, int, uuid, halfvec, text, timestamptz, timestamptz, text[], uuid[], text[],
                                jsonb, interval) rename to recall_passages;

-- As `recall_passages`, but for a session that is left out: what it said before its prompts begin is not in them, and is recalled.
create function trunkline.recall(
    p_tenant uuid, p_store uuid, p_query text, p_limit int, p_token_budget int,
    p_exclude_session uuid default null, p_embedding halfvec default null, p_model text default null,
    p_from timestamptz default null, p_to timestamptz default null, p_roles text[] default null,
    p_sessions uuid[] default null, p_tags text[] default null, p_metadata jsonb default null, p_half_life interval default null)
    returns table (passage_id uuid, session_id uuid, document_id uuid, role text, content text, tokens int, tags text[],
                   metadata jsonb, created_at timestamptz, score real)
    language plpgsql stable security definer
    set search_path = trunkline, pg_temp
as $$
declare
    v_since timestamptz;
begin
    if p_exclude_session is not null then
        v_since := kept_since(p_tenant, p_exclude_session);
    end if;
    if v_since is null then
        return query
        select * from recall_passages(p_tenant, p_store, p_query, p_limit, p_token_budget, p_exclude_session, p_embedding, p_model,
                                      p_from, p_to, p_roles, p_sessions, p_tags, p_metadata, p_half_life);
        return;
    end if;
    return query
    select b.passage_id, b.session_id, b.document_id, b.role, b.content, b.tokens, b.tags, b.metadata, b.created_at, b.score
      from (select r.*, sum(r.tokens) over (order by r.nth) as spent
              from recall_passages(p_tenant, p_store, p_query, 2 * p_limit + 20, 3 * p_token_budget, null, p_embedding, p_model,
                                   p_from, p_to, p_roles, p_sessions, p_tags, p_metadata, p_half_life)
                   with ordinality as r (passage_id, session_id, document_id, role, content, tokens, tags, metadata, created_at,
                                         score, nth)
             where r.session_id is distinct from p_exclude_session or r.created_at < v_since) as b
     where b.spent <= p_token_budget
     order by b.nth
     limit p_limit;
end
$$;

-- As before; of a user's messages also the number (`seq`), and how the conversation was compacted.
create or replace function trunkline.gateway_history(p_tenant uuid, p_agent uuid, p_user text, p_call uuid, p_session uuid)
    returns table (session_id uuid, events text)
    language plpgsql stable security definer
    set search_path = trunkline, pg_temp
as $$
declare
    v_last bigint;
begin
    if p_call is not null then
        select e.session_id, max(e.seq) into session_id, v_last
          from events e
          join sessions s on s.tenant_id = e.tenant_id and s.id = e.session_id
         where e.tenant_id = p_tenant and e.call_id = p_call and s.agent_id = p_agent and s.user_id is not distinct from p_user
         group by e.session_id, s.created_at
         order by s.created_at
         limit 1;
    else
        select s.id, s.last_seq into session_id, v_last
          from sessions s
         where s.tenant_id = p_tenant and s.id = p_session and s.agent_id = p_agent and s.user_id is not distinct from p_user;
    end if;
    if session_id is null then
        return;
    end if;
    select coalesce(jsonb_agg(jsonb_build_array(e.type, case when e.type = 'user.message'
                                                              then e.payload || jsonb_build_object('seq', e.seq)
                                                              else e.payload end) order by e.seq), '[]')::text into events
      from events e
     where e.tenant_id = p_tenant and e.session_id = gateway_history.session_id and e.seq <= v_last
       and e.type in ('user.message', 'agent.message', 'agent.custom_tool_use', 'user.custom_tool_result',
                      'agent.thread_context_compacted');
    return next;
end
$$;

-- As before, and how much of a conversation an agent's prompts hold.
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
                     'hash', encode(k.hash, 'hex'), 'tenant', k.tenant_id, 'id', coalesce(p.id, k.id),
                     'name', coalesce(p.name, k.name), 'scopes', k.scopes,
                     'agent', k.agent_id, 'team', coalesce(p.team_id, k.team_id), 'user', k.user_id,
                     'models', coalesce(p.models, k.models),
                     'store_bodies', coalesce(p.store_bodies, k.store_bodies),
                     'expires_at', extract(epoch from least(k.expires_at, p.expires_at))::float8, 'limits', limits_json(l),
                     'limits_users', u.kind is not null)), '[]')
                   from api_keys k
                   left join api_keys p on p.tenant_id = k.tenant_id and p.id = k.for_key
                   left join limits l on l.tenant_id = k.tenant_id and l.kind = 'key'
                                     and l.subject = coalesce(p.id, k.id)::text
                   left join limits u on u.tenant_id = k.tenant_id and u.kind = 'users_of_key'
                                     and u.subject = coalesce(p.id, k.id)::text
                  where k.revoked_at is null and (k.expires_at is null or k.expires_at > now())
                    and p.revoked_at is null and (p.expires_at is null or p.expires_at > now())),
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
                     'context', case when v.context_tokens is not null then jsonb_build_object(
                         'tokens', v.context_tokens, 'turns', v.context_turns) end,
                     'has_blocks', b.count > 0, 'has_session_blocks', b.of_sessions > 0)), '[]')
                   from agents a
                   join agent_versions v on v.tenant_id = a.tenant_id and v.agent_id = a.id and v.version = a.current_version
                  cross join lateral (select count(*) as count, count(*) filter (where scope = 'session') as of_sessions
                                        from agent_blocks b where b.tenant_id = a.tenant_id and b.agent_id = a.id
                                         and b.version = v.version) as b
                  where a.archived_at is null));
end
$$;

-- The same of one of its versions.
create or replace function trunkline.gateway_agent(p_tenant uuid, p_agent uuid, p_version int) returns jsonb
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
               'context', case when v.context_tokens is not null then jsonb_build_object(
                   'tokens', v.context_tokens, 'turns', v.context_turns) end,
               'has_blocks', b.count > 0, 'has_session_blocks', b.of_sessions > 0)
      from agents a
      join agent_versions v on v.tenant_id = a.tenant_id and v.agent_id = a.id and v.version = p_version
     cross join lateral (select count(*) as count, count(*) filter (where scope = 'session') as of_sessions
                           from agent_blocks b where b.tenant_id = a.tenant_id and b.agent_id = a.id
                            and b.version = v.version) as b
     where a.tenant_id = p_tenant and a.id = p_agent
$$;

revoke execute on function trunkline.kept_since(uuid, uuid) from public;
do $$
begin
    execute (select format('revoke execute on function %1$s from public; grant execute on function %1$s to trunkline_control',
                           p.oid::regprocedure)
               from pg_proc p where p.proname = 'recall' and p.pronamespace = 'trunkline'::regnamespace);
    execute (select format('revoke execute on function %s from trunkline_control', p.oid::regprocedure)
               from pg_proc p where p.proname = 'recall_passages' and p.pronamespace = 'trunkline'::regnamespace);
end
$$;
