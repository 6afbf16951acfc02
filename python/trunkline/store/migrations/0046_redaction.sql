-- Redaction before anything is stored: what is looked for, by agent and by store. The text is redacted by whoever writes.

set local role trunkline_owner;

alter table trunkline.agent_versions
    add column redact     jsonb,                     -- [detector or {name, pattern}, ...]; null: nothing
    add column redact_log boolean not null default true;  -- whether what sessions' logs say is redacted too
alter table trunkline.memory_stores
    add column redact jsonb;                         -- the same, of what is written into the store

-- What is looked for in what these agents write, or is written into a store: what the agents' current versions, the store, and the
-- agent whose blocks made it say, together. Null: nothing.
create function trunkline.redaction(p_tenant uuid, p_agents uuid[], p_store uuid) returns jsonb
    language sql stable
    set search_path = trunkline, pg_temp
as $$
    select jsonb_agg(distinct found.item)
      from (select jsonb_array_elements(v.redact) as item
              from agents a
              join agent_versions v on v.tenant_id = a.tenant_id and v.agent_id = a.id and v.version = a.current_version
             where a.tenant_id = p_tenant and v.redact is not null
               and (a.id = any (p_agents) or a.id = (select m.agent_id from memory_stores m
                                                      where m.tenant_id = p_tenant and m.id = p_store and m.managed))
             union all
            select jsonb_array_elements(m.redact) from memory_stores m
             where m.tenant_id = p_tenant and m.id = p_store and m.redact is not null) as found
$$;
revoke execute on function trunkline.redaction(uuid, uuid[], uuid) from public;
grant execute on function trunkline.redaction(uuid, uuid[], uuid) to trunkline_control;

-- As before, and what is redacted of what is said with an agent.
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
                     'redact', case when v.redact is not null then
                         jsonb_build_object('detect', v.redact, 'log', v.redact_log) end,
                     'has_blocks', b.count > 0, 'has_session_blocks', b.of_sessions > 0)), '[]')
                   from agents a
                   join agent_versions v on v.tenant_id = a.tenant_id and v.agent_id = a.id and v.version = a.current_version
                  cross join lateral (select count(*) as count, count(*) filter (where scope = 'session') as of_sessions
                                        from agent_blocks b where b.tenant_id = a.tenant_id and b.agent_id = a.id
                                         and b.version = v.version) as b
                  where a.archived_at is null));
end
$$;

-- The same of an agent in one version; what is redacted, the current one says.
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
               'redact', case when now.redact is not null then
                   jsonb_build_object('detect', now.redact, 'log', now.redact_log) end,
               'has_blocks', b.count > 0, 'has_session_blocks', b.of_sessions > 0)
      from agents a
      join agent_versions v on v.tenant_id = a.tenant_id and v.agent_id = a.id and v.version = p_version
      join agent_versions now on now.tenant_id = a.tenant_id and now.agent_id = a.id and now.version = a.current_version
     cross join lateral (select count(*) as count, count(*) filter (where scope = 'session') as of_sessions
                           from agent_blocks b where b.tenant_id = a.tenant_id and b.agent_id = a.id
                            and b.version = v.version) as b
     where a.tenant_id = p_tenant and a.id = p_agent
$$;
