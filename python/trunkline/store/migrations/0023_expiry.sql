-- Retention: a store may say for how long it keeps what is in it.

set local role trunkline_owner;

alter table trunkline.memory_stores
    add column expire_after_days int check (expire_after_days between 1 and 36500),  -- null: kept as long as the store
    add column expired_at        timestamptz;        -- when the worker last found nothing more to delete
create index memory_stores_expiry on trunkline.memory_stores (expired_at nulls first) where expire_after_days is not null;

-- Delete up to `p_limit` passages, memories and versions each of one store that are past its time. Returns how many rows went;
-- null when no store is left to be looked at today. Looks across tenants, and tells of none.
-- Past their time are passages said before it, memories not written since, and versions that were superseded, or deleted,
-- before it: what stood at any moment within the time can still be read.
create function trunkline.expire_memory(p_limit int) returns bigint
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
declare
    store     record;
    v_before  timestamptz;
    v_deleted bigint;
    v_rows    bigint;
    v_most    bigint;
begin
    select s.tenant_id, s.id, s.expire_after_days into store from memory_stores s
     where s.expire_after_days is not null and (s.expired_at is null or s.expired_at < now() - interval '20 hours')
     order by s.expired_at nulls first limit 1 for no key update skip locked;
    if not found then
        return null;
    end if;
    v_before := now() - make_interval(days => store.expire_after_days);

    delete from passages p
     where p.tenant_id = store.tenant_id and p.store_id = store.id
       and p.id = any (array(select o.id from passages o
                              where o.tenant_id = store.tenant_id and o.store_id = store.id and o.created_at < v_before
                              limit p_limit));
    get diagnostics v_deleted = row_count;
    v_most := v_deleted;

    with gone as (
        delete from memories m
         where m.tenant_id = store.tenant_id
           -- Whoever is writing one right now keeps it.
           and m.id = any (array(select o.id from memories o
                                  where o.tenant_id = store.tenant_id and o.store_id = store.id and o.updated_at < v_before
                                  limit p_limit for update skip locked))
        returning m.id
    ), versions as (
        delete from memory_versions v using gone where v.tenant_id = store.tenant_id and v.memory_id = gone.id
        returning 1
    )
    select count(*), count(*) + (select count(*) from versions) into v_rows, v_deleted
      from gone;
    v_deleted := v_most + v_deleted;
    v_most := greatest(v_most, v_rows);

    delete from memory_versions v
     where v.tenant_id = store.tenant_id
       and v.id = any (array(select o.id from memory_versions o
                              where o.tenant_id = store.tenant_id and o.store_id = store.id and o.created_at < v_before
                                and (o.operation = 'deleted'
                                     or exists (select from memory_versions n
                                                 where n.tenant_id = o.tenant_id and n.memory_id = o.memory_id
                                                   and n.version > o.version and n.created_at < v_before))
                              -- A deletion goes last: it is what says that the versions before it are over.
                              order by o.memory_id, o.version
                              limit p_limit));
    get diagnostics v_rows = row_count;
    if greatest(v_most, v_rows) < p_limit then
        update memory_stores s set expired_at = now() where s.tenant_id = store.tenant_id and s.id = store.id;
    end if;
    return v_deleted + v_rows;
end
$$;

revoke execute on function trunkline.expire_memory(int) from public;
grant execute on function trunkline.expire_memory(int) to trunkline_control;
