-- The audit log: who changed what, when, in which request. Written by the tables themselves, in the change's own transaction, so
-- that no way of changing them leaves it out. Of what changed it has the names of the fields, never what they say.

set local role trunkline_owner;

create table trunkline.audit_log (
    tenant_id     uuid        not null,
    id            uuid        not null default gen_random_uuid(),
    created_at    timestamptz not null default clock_timestamp(),
    action        text        not null,              -- created, updated, paused, unpaused, archived, revoked, deleted
    resource_type text        not null,
    resource_id   text        not null,              -- as on the wire; of an end user, a digest (`erasure_digest`)
    name          text,                              -- what people call it, at that moment
    changed       text[]      not null default '{}', -- the fields
    key_id        uuid,                              -- whose request it was; null: the schedule's, or the installation's own
    request_id    text,
    primary key (tenant_id, id, created_at)
) partition by range (created_at);
create index audit_log_recent on trunkline.audit_log (tenant_id, created_at, id);
create index audit_log_of on trunkline.audit_log (tenant_id, resource_id, created_at);
create table trunkline.audit_log_default partition of trunkline.audit_log default;
alter table trunkline.audit_log enable row level security;
alter table trunkline.audit_log force row level security;
create policy one_tenant on trunkline.audit_log to trunkline_control
    using (tenant_id = trunkline.current_tenant()) with check (tenant_id = trunkline.current_tenant());
create policy owner on trunkline.audit_log to trunkline_owner using (true) with check (true);
grant select, insert on trunkline.audit_log to trunkline_control;

-- As before, with one more table.
create or replace function trunkline.ensure_partitions(p_ahead int default 3) returns int
    language plpgsql security definer
    set search_path = trunkline, pg_temp
    set timezone = 'UTC'
as $$
declare
    parent text;
    month  timestamptz;
    child  text;
    made   int := 0;
begin
    foreach parent in array array['events', 'usage', 'call_bodies', 'audit_log'] loop
        for month in
            select generate_series(date_trunc('month', now()) - interval '1 month',
                                   date_trunc('month', now()) + make_interval(months => p_ahead),
                                   interval '1 month')
        loop
            child := format('%s_%s', parent, to_char(month, 'YYYY_MM'));
            if to_regclass('trunkline.' || child) is null then
                execute format('create table trunkline.%I partition of trunkline.%I for values from (%L) to (%L)',
                               child, parent, month, month + interval '1 month');
                made := made + 1;
            end if;
        end loop;
    end loop;
    return made;
end
$$;
select trunkline.ensure_partitions();

-- Forget what is older than `p_days`, of all tenants: whole months, and of the month of that day what is before it. Returns how
-- many rows were deleted one by one.
create function trunkline.forget_audit(p_days int) returns bigint
    language plpgsql security definer
    set search_path = trunkline, pg_temp
    set timezone = 'UTC'
as $$
declare
    v_before timestamptz := now() - make_interval(days => p_days);
    child    text;
    gone     bigint;
begin
    for child in
        select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
         where i.inhparent = 'audit_log'::regclass and c.relname ~ '^audit_log_\d{4}_\d{2}$'
           and to_date(right(c.relname, 7), 'YYYY_MM') + interval '1 month' <= v_before
           -- Last month's is made anew each day.
           and to_date(right(c.relname, 7), 'YYYY_MM') < date_trunc('month', now()) - interval '1 month'
    loop
        execute format('drop table trunkline.%I', child);
    end loop;
    delete from audit_log where created_at < v_before;
    get diagnostics gone = row_count;
    return gone;
end
$$;
revoke execute on function trunkline.forget_audit(int) from public;
grant execute on function trunkline.forget_audit(int) to trunkline_control;

-- Write an entry for the request under way.
create function trunkline.audit(p_tenant uuid, p_action text, p_type text, p_id text, p_name text, p_changed text[]) returns void
    language sql
    set search_path = trunkline, pg_temp
as $$
    insert into audit_log (tenant_id, action, resource_type, resource_id, name, changed, key_id, request_id)
    values (p_tenant, p_action, p_type, p_id, p_name, coalesce(p_changed, '{}'),
            nullif(current_setting('trunkline.key', true), '')::uuid, nullif(current_setting('trunkline.request', true), ''))
$$;

-- The fields in which two rows differ, but for those that change by themselves.
create function trunkline.audited_fields(p_before jsonb, p_after jsonb) returns text[]
    language sql immutable
    set search_path = trunkline, pg_temp
as $$
    select array_agg(key order by key) from jsonb_object_keys(p_after) as key
     where p_before -> key is distinct from p_after -> key
       and key <> all ('{tenant_id,id,created_at,updated_at,expired_at,current_version,failures,next_run_at,due_at,last_run_at}')
$$;

-- A row was written: the trigger names the type of resource and the prefix of its ids.
create function trunkline.audited() returns trigger
    language plpgsql
    set search_path = trunkline, pg_temp
as $$
declare
    v_row     jsonb := case when tg_op = 'DELETE' then to_jsonb(old) else to_jsonb(new) end;
    v_before  jsonb := case when tg_op = 'UPDATE' then to_jsonb(old) end;
    v_changed text[];
    v_action  text := case tg_op when 'INSERT' then 'created' when 'DELETE' then 'deleted' else 'updated' end;
begin
    if tg_op = 'UPDATE' then
        v_changed := audited_fields(v_before, v_row);
        if v_changed is null then
            return null;
        end if;
        v_action := case when v_before -> 'archived_at' = 'null' and v_row -> 'archived_at' <> 'null' then 'archived'
                         when v_before -> 'revoked_at' = 'null' and v_row -> 'revoked_at' <> 'null' then 'revoked'
                         when v_changed <@ '{status,paused_reason}' and v_row ->> 'status' = 'paused' then 'paused'
                         when v_changed <@ '{status,paused_reason}' and v_row ->> 'status' = 'active' then 'unpaused'
                         else 'updated' end;
    end if;
    perform audit((v_row ->> 'tenant_id')::uuid, v_action, tg_argv[0],
                  tg_argv[1] || '_' || replace(coalesce(v_row ->> 'id', v_row ->> 'tenant_id'), '-', ''),
                  coalesce(v_row ->> 'name', v_row ->> 'display_name', v_row ->> 'kind'), v_changed);
    return null;
end
$$;

create trigger audited after insert or update or delete on trunkline.agents
    for each row execute function trunkline.audited('agent', 'agent');
create trigger audited after insert or update or delete on trunkline.teams
    for each row execute function trunkline.audited('team', 'team');
create trigger audited after insert or update or delete on trunkline.vaults
    for each row execute function trunkline.audited('vault', 'vlt');
create trigger audited after insert or update or delete on trunkline.vault_credentials
    for each row execute function trunkline.audited('credential', 'vcrd');
create trigger audited after insert or update or delete on trunkline.environments
    for each row execute function trunkline.audited('environment', 'env');
create trigger audited after insert or update or delete on trunkline.deployments
    for each row execute function trunkline.audited('deployment', 'depl');
create trigger audited after insert or update or delete on trunkline.retention
    for each row execute function trunkline.audited('retention', 'tnt');
create trigger audited after insert on trunkline.erasures
    for each row execute function trunkline.audited('erasure', 'erasure');
-- Keys that the runtime makes for itself, and stores that agents' memory makes, are nobody's doing.
create trigger audited_insert after insert on trunkline.api_keys
    for each row when (not 'runtime' = any (new.scopes)) execute function trunkline.audited('key', 'key');
create trigger audited_change after update or delete on trunkline.api_keys
    for each row when (not 'runtime' = any (old.scopes)) execute function trunkline.audited('key', 'key');
create trigger audited_insert after insert on trunkline.memory_stores
    for each row when (not new.managed) execute function trunkline.audited('memory_store', 'memstore');
create trigger audited_change after update or delete on trunkline.memory_stores
    for each row when (not old.managed) execute function trunkline.audited('memory_store', 'memstore');

-- What a new version of an agent changed of its definition.
create function trunkline.audited_version() returns trigger
    language plpgsql
    set search_path = trunkline, pg_temp
as $$
declare
    v_before jsonb;
begin
    select v.definition into v_before from agent_versions v
     where v.tenant_id = new.tenant_id and v.agent_id = new.agent_id and v.version = new.version - 1;
    if found then
        perform audit(new.tenant_id, 'updated', 'agent', 'agent_' || replace(new.agent_id::text, '-', ''),
                      new.definition ->> 'name', audited_fields(v_before, new.definition));
    end if;
    return null;
end
$$;
create trigger audited after insert on trunkline.agent_versions
    for each row when (new.version > 1) execute function trunkline.audited_version();

-- Limits of keys, teams and end users; those that a key or team is made with are a part of its making.
create function trunkline.audited_limits() returns trigger
    language plpgsql
    set search_path = trunkline, pg_temp
as $$
declare
    v_row     limits := case when tg_op = 'DELETE' then old else new end;
    v_type    text := case v_row.kind when 'user' then 'user' when 'key' then 'key' when 'users_of_key' then 'key' else 'team' end;
    v_id      text := case v_type when 'user' then encode(erasure_digest(v_row.tenant_id, 'user', v_row.subject), 'hex')
                           else v_type || '_' || replace(v_row.subject, '-', '') end;
    v_changed text[];
begin
    v_changed := case tg_op when 'UPDATE' then audited_fields(to_jsonb(old), to_jsonb(new))
                            else audited_fields('{}', jsonb_strip_nulls(to_jsonb(v_row))) end;
    select array_agg(case when v_row.kind like 'users%' then 'users.' || field else field end) into v_changed
      from unnest(v_changed) as field where field not in ('kind', 'subject');
    if v_changed is null
       or exists (select from audit_log a where a.tenant_id = v_row.tenant_id and a.resource_id = v_id and a.action = 'created'
                                            and a.request_id = current_setting('trunkline.request', true)) then
        return null;
    end if;
    perform audit(v_row.tenant_id, case when v_type = 'user' and tg_op = 'DELETE' then 'deleted' else 'updated' end, v_type, v_id,
                  null, v_changed);
    return null;
end
$$;
create trigger audited after insert or update or delete on trunkline.limits
    for each row execute function trunkline.audited_limits();

revoke execute on function trunkline.audit(uuid, text, text, text, text, text[]), trunkline.audited_fields(jsonb, jsonb),
    trunkline.audited(), trunkline.audited_version(), trunkline.audited_limits() from public;
grant execute on function trunkline.audit(uuid, text, text, text, text, text[]), trunkline.audited_fields(jsonb, jsonb),
    trunkline.erasure_digest(uuid, text, text) to trunkline_control;
