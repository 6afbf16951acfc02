-- Who may see what. The control plane sees one tenant's rows: the tenant of its transaction (`trunkline.tenant`).
-- The gateway sees no table at all; it may execute its functions (next file). The owner, whose functions run
-- for both, sees all rows, and so each of them names the tenant itself.

set local role trunkline_owner;

create function trunkline.current_tenant() returns uuid
    language sql stable
as $$ select nullif(current_setting('trunkline.tenant', true), '')::uuid $$;

do $$
declare
    name text;
    key  text;
begin
    foreach name in array array['tenants', 'agents', 'agent_versions', 'agent_blocks', 'api_keys', 'key_spend',
                                'sessions', 'events', 'idempotency_keys', 'memory_stores', 'memories',
                                'memory_versions', 'passages', 'usage'] loop
        key := case name when 'tenants' then 'id' else 'tenant_id' end;
        execute format('alter table trunkline.%I enable row level security', name);
        execute format('alter table trunkline.%I force row level security', name);
        execute format('create policy one_tenant on trunkline.%I to trunkline_control
                        using (%I = trunkline.current_tenant()) with check (%I = trunkline.current_tenant())',
                       name, key, key);
        execute format('create policy owner on trunkline.%I to trunkline_owner using (true) with check (true)', name);
        execute format('grant select, insert, update, delete on trunkline.%I to trunkline_control', name);
    end loop;
end
$$;
-- What is written once stays as it was written; redaction of a version is the one exception, erasure another.
revoke update on trunkline.agent_versions, trunkline.agent_blocks, trunkline.usage from trunkline_control;
revoke insert, update, delete on trunkline.key_spend from trunkline_control;
grant select on trunkline.model_prices, trunkline.catalogue_versions to trunkline_control;

-- Changes that the gateway must hear of. NOTIFY is a hint; the revision is what counts.
create function trunkline.configuration_changed() returns trigger
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
begin
    update configuration set revision = revision + 1;
    perform pg_notify('trunkline_configuration', '');
    return null;
end
$$;

create trigger changed after insert or update or delete on trunkline.agents
    for each statement execute function trunkline.configuration_changed();
create trigger changed after insert on trunkline.agent_versions
    for each statement execute function trunkline.configuration_changed();
create trigger changed after insert or update or delete on trunkline.api_keys
    for each statement execute function trunkline.configuration_changed();

-- A block changed: whoever keeps a rendered copy for this tenant, agent and subject reads again.
create function trunkline.memory_changed() returns trigger
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
declare
    changed memories;
begin
    if tg_op = 'DELETE' then changed := old; else changed := new; end if;
    if changed.block is not null then
        perform pg_notify('trunkline_memory',
                          concat_ws(' ', s.tenant_id, s.scope, coalesce(s.agent_id::text, '-'), coalesce(s.subject, '-')))
           from memory_stores s where s.tenant_id = changed.tenant_id and s.id = changed.store_id;
    end if;
    return null;
end
$$;

create trigger changed after insert or update or delete on trunkline.memories
    for each row execute function trunkline.memory_changed();

-- New events, for streams that wait for them.
create function trunkline.events_appended() returns trigger
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
begin
    perform pg_notify('trunkline_events', session_id::text) from (select distinct session_id from appended) as sessions;
    return null;
end
$$;

create trigger appended after insert on trunkline.events
    referencing new table as appended
    for each statement execute function trunkline.events_appended();

-- The control plane's look-up of a key, before it knows the tenant.
create function trunkline.authenticate_key(p_hash bytea)
    returns table (tenant_id uuid, key_id uuid, name text, scopes text[], agent_id uuid, models text[])
    language sql stable security definer
    set search_path = trunkline, pg_temp
as $$
    select k.tenant_id, k.id, k.name, k.scopes, k.agent_id, k.models
      from api_keys k
     where k.hash = p_hash and k.revoked_at is null and (k.expires_at is null or k.expires_at > now())
$$;

revoke execute on all functions in schema trunkline from public;
grant execute on function trunkline.authenticate_key(bytea), trunkline.current_tenant(),
    trunkline.ensure_partitions(int) to trunkline_control;
