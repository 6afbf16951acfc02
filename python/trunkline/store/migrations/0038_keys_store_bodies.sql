-- A key may say of its own calls whether their bodies are stored.

set local role trunkline_owner;

-- Null: as `record.bodies` says.
alter table trunkline.api_keys add column store_bodies boolean;

-- As before, and whether the bodies of a key's calls are stored.
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
                     'store_bodies', k.store_bodies,
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
