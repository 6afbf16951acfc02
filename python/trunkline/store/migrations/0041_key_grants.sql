-- What a key reaches beside its agent: stores and tools; and work that goes on in the name of the key that started it.

set local role trunkline_owner;

alter table trunkline.api_keys
    add column stores  jsonb,                        -- [{memory_store_id | scope, access}]; null: all of its agent or tenant
    add column tools   text[],                       -- the only tools carried out for it; null: any
    add column for_key uuid,                         -- a key of the runtime's: the key in whose name it calls
    add foreign key (tenant_id, for_key) references trunkline.api_keys (tenant_id, id) on delete cascade;
create index api_keys_for_key on trunkline.api_keys (tenant_id, for_key) where for_key is not null;

-- The key that last gave the session work, where it has bounds; null: it goes on in the tenant's name.
alter table trunkline.sessions add column key_id uuid;
alter table trunkline.deployments add column key_id uuid;

-- Whether a store is attached to a session of an agent to be read, and to none of its sessions to be written.
create function trunkline.attached_for_reading(p_tenant uuid, p_agent uuid, p_store uuid) returns boolean
    language sql stable security definer
    set search_path = trunkline, pg_temp
as $$
    select coalesce(bool_and(r.resource ->> 'access' = 'read_only'), false)
      from sessions s
     cross join jsonb_array_elements(s.resources) as r(resource)
     where p_tenant = current_tenant() and s.tenant_id = p_tenant and s.agent_id = p_agent and s.archived_at is null
       and s.resources @> jsonb_build_array(jsonb_build_object('memory_store_id', 'memstore_' || replace(p_store::text, '-', '')))
       and r.resource ->> 'memory_store_id' = 'memstore_' || replace(p_store::text, '-', '')
$$;
revoke execute on function trunkline.attached_for_reading(uuid, uuid, uuid) from public;
grant execute on function trunkline.attached_for_reading(uuid, uuid, uuid) to trunkline_control;

-- As before, with what the key is granted; a key of the runtime's is granted what the one has that it is used for, and ends
-- with it.
drop function trunkline.authenticate_key(bytea);
create function trunkline.authenticate_key(p_hash bytea)
    returns table (tenant_id uuid, key_id uuid, name text, scopes text[], agent_id uuid, models text[], user_id text,
                   stores jsonb, tools text[], bounded boolean)
    language sql stable security definer
    set search_path = trunkline, pg_temp
as $$
    select k.tenant_id, k.id, k.name, k.scopes, k.agent_id, k.models, k.user_id, coalesce(p.stores, k.stores),
           coalesce(p.tools, k.tools),
           k.agent_id is not null or k.team_id is not null or k.models is not null or k.stores is not null
           or k.tools is not null
           or exists (select from limits l where l.tenant_id = k.tenant_id and l.kind in ('key', 'users_of_key')
                                             and l.subject = k.id::text)
      from api_keys k
      left join api_keys p on p.tenant_id = k.tenant_id and p.id = k.for_key
     where k.hash = p_hash and k.revoked_at is null and (k.expires_at is null or k.expires_at > now())
       and p.revoked_at is null and (p.expires_at is null or p.expires_at > now())
$$;
revoke execute on function trunkline.authenticate_key(bytea) from public;
grant execute on function trunkline.authenticate_key(bytea) to trunkline_control;

-- As before; a key of the runtime's that calls in the name of another is that key, with its models, team and limits.
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
                     'has_blocks', b.count > 0, 'has_session_blocks', b.of_sessions > 0)), '[]')
                   from agents a
                   join agent_versions v on v.tenant_id = a.tenant_id and v.agent_id = a.id and v.version = a.current_version
                  cross join lateral (select count(*) as count, count(*) filter (where scope = 'session') as of_sessions
                                        from agent_blocks b where b.tenant_id = a.tenant_id and b.agent_id = a.id
                                         and b.version = v.version) as b
                  where a.archived_at is null));
end
$$;
