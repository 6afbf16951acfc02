-- Items of a memory store: JSON objects under a namespace and a key, as agent frameworks have them. Their texts are passages, which
-- recall searches; an item may be forgotten some time after it was last written or read.

set local role trunkline_owner;

create table trunkline.store_items (
    tenant_id   uuid        not null,
    store_id    uuid        not null,
    namespace   text[]      not null collate "C",
    key         text        not null collate "C",
    document_id uuid        not null,                -- of its passages
    value       jsonb       not null,
    ttl         interval,                            -- after the last write, or read; null: kept as long as the store
    expires_at  timestamptz,
    created_at  timestamptz not null,
    updated_at  timestamptz not null,
    primary key (tenant_id, store_id, namespace, key),
    unique (tenant_id, store_id, document_id),
    foreign key (tenant_id, store_id) references trunkline.memory_stores (tenant_id, id) on delete cascade
);
create index store_items_newest on trunkline.store_items (tenant_id, store_id, updated_at);
create index store_items_expiry on trunkline.store_items (expires_at) where expires_at is not null;
alter table trunkline.store_items enable row level security;
alter table trunkline.store_items force row level security;
create policy one_tenant on trunkline.store_items to trunkline_control
    using (tenant_id = trunkline.current_tenant()) with check (tenant_id = trunkline.current_tenant());
create policy owner on trunkline.store_items to trunkline_owner using (true) with check (true);
grant select, insert, update, delete on trunkline.store_items to trunkline_control;

-- Whether a value is as a filter says: equal, or, of an object, its members; or within `{"$gt": …}` and the like, which hold between
-- two numbers, or two texts, alone. A member that is not there is null.
create function trunkline.value_matches(p_value jsonb, p_filter jsonb) returns boolean
    language plpgsql immutable parallel safe
    set search_path = trunkline, pg_temp
as $$
declare
    member  record;
    v_order int;
begin
    if jsonb_typeof(p_filter) <> 'object' then
        return coalesce(p_value, 'null') = p_filter;
    end if;
    for member in select key, value from jsonb_each(p_filter) loop
        if left(member.key, 1) <> '$' then
            if coalesce(jsonb_typeof(p_value), 'null') <> 'object' or not value_matches(p_value -> member.key, member.value) then
                return false;
            end if;
        elsif member.key = '$eq' then
            if coalesce(p_value, 'null') <> member.value then return false; end if;
        elsif member.key = '$ne' then
            if coalesce(p_value, 'null') = member.value then return false; end if;
        else
            if jsonb_typeof(p_value) is distinct from jsonb_typeof(member.value) then
                return false;
            elsif jsonb_typeof(p_value) = 'number' then
                v_order := sign((p_value #>> '{}')::numeric - (member.value #>> '{}')::numeric);
            elsif jsonb_typeof(p_value) = 'string' then
                v_order := case when (p_value #>> '{}') collate "C" < (member.value #>> '{}') then -1
                                when (p_value #>> '{}') = (member.value #>> '{}') then 0 else 1 end;
            else
                return false;
            end if;
            if not (case member.key when '$gt' then v_order > 0 when '$gte' then v_order >= 0
                                   when '$lt' then v_order < 0 when '$lte' then v_order <= 0 else false end) then
                return false;
            end if;
        end if;
    end loop;
    return true;
end
$$;

-- Delete up to `p_limit` items past their time, with their passages. For the worker's daily work, which looks across tenants, and
-- tells none of them; reads leave such items out from the moment on. Returns how many went.
create function trunkline.forget_items(p_limit int) returns bigint
    language sql security definer
    set search_path = trunkline, pg_temp
as $$
    with gone as (
        delete from store_items i
         where (i.tenant_id, i.store_id, i.document_id) in
               (select o.tenant_id, o.store_id, o.document_id from store_items o where o.expires_at < now()
                 order by o.expires_at limit p_limit for update skip locked)
        returning i.tenant_id, i.store_id, i.document_id
    ), passages as (
        delete from passages p using gone g
         where p.tenant_id = g.tenant_id and p.store_id = g.store_id and p.document_id = g.document_id
    )
    select count(*) from gone
$$;

-- As before, and items, by when they were last written, where no path or session is given.
create or replace function trunkline.erase_from_store(p_store uuid, p_prefix text, p_session uuid, p_since timestamptz, p_before timestamptz,
                                           p_all boolean, p_agent uuid, p_key uuid, p_id uuid, p_at timestamptz) returns jsonb
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
declare
    v_tenant   uuid := current_tenant();
    v_memories uuid[] := '{}';
    v_rows     bigint;
    v_erased   jsonb := '{"memories": 0, "memory_versions": 0, "passages": 0}';
begin
    if v_tenant is null or p_all = (coalesce(p_prefix, p_session::text, p_since::text, p_before::text) is not null)
       or (p_prefix is not null and p_session is not null) then
        raise exception 'erase_from_store: one tenant, and what of the store' using errcode = 'invalid_parameter_value';
    end if;
    perform from memory_stores s
      where s.tenant_id = v_tenant and s.id = p_store and (p_agent is null or s.agent_id = p_agent) for no key update;
    if not found then
        return null;
    end if;
    if p_all or p_prefix is not null then
        -- Under lock, so that who is writing one is waited for, and what it writes goes too.
        perform from memories m where m.tenant_id = v_tenant and m.store_id = p_store order by m.path for update;
        select coalesce(array_agg(w.memory_id), '{}') into v_memories
          from (select v.memory_id, max(v.created_at) as written,
                       bool_or(p_all or starts_with(v.path || '/', p_prefix)) as below
                  from memory_versions v where v.tenant_id = v_tenant and v.store_id = p_store
                 group by v.memory_id) as w
         where (w.below or exists (select from memories m where m.tenant_id = v_tenant and m.id = w.memory_id
                                                            and starts_with(m.path || '/', p_prefix))) and (p_since is null or w.written >= p_since) and (p_before is null or w.written < p_before);
        delete from memories m where m.tenant_id = v_tenant and m.store_id = p_store and m.id = any (v_memories);
        get diagnostics v_rows = row_count;
        v_erased := v_erased || jsonb_build_object('memories', v_rows);
        delete from memory_versions v where v.tenant_id = v_tenant and v.store_id = p_store and v.memory_id = any (v_memories);
        get diagnostics v_rows = row_count;
        v_erased := v_erased || jsonb_build_object('memory_versions', v_rows);
    end if;
    if p_prefix is null then
        -- With their postings, tails and embeddings.
        delete from passages p
         where p.tenant_id = v_tenant and p.store_id = p_store and (p_session is null or p.session_id = p_session)
           and (p_since is null or p.created_at >= p_since) and (p_before is null or p.created_at < p_before);
        get diagnostics v_rows = row_count;
        v_erased := v_erased || jsonb_build_object('passages', v_rows);
    end if;
    if p_prefix is null and p_session is null then
        delete from store_items i
         where i.tenant_id = v_tenant and i.store_id = p_store
           and (p_since is null or i.updated_at >= p_since) and (p_before is null or i.updated_at < p_before);
        get diagnostics v_rows = row_count;
        v_erased := v_erased || jsonb_build_object('items', v_rows);
    end if;
    insert into erasures (tenant_id, id, kind, digest, agent_id, key_id, erased, erased_at)
    values (v_tenant, p_id, 'store', erasure_digest(v_tenant, 'store', p_store::text), p_agent, p_key, v_erased, p_at);
    return v_erased;
end
$$;

revoke execute on function trunkline.value_matches(jsonb, jsonb), trunkline.forget_items(int) from public;
grant execute on function trunkline.value_matches(jsonb, jsonb), trunkline.forget_items(int) to trunkline_control;
