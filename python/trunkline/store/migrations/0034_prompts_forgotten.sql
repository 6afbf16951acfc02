-- What prompts begin with repeats what memory said. It goes when that is redacted or erased, of whatever store, and when nobody has
-- called the session for longer than any provider's cache holds.

set local role trunkline_owner;

create index sessions_attached on trunkline.sessions using gin (resources jsonb_path_ops) where resources <> '[]';

-- Have the sessions begin their prompts anew that may say what is in one of these stores.
create function trunkline.forget_prompts(p_tenant uuid, p_stores uuid[]) returns void
    language sql
    set search_path = trunkline, pg_temp
as $$
    delete from session_prompts p
     using sessions s
     where p.tenant_id = p_tenant and s.tenant_id = p_tenant and s.id = p.session_id
       and (exists (select from memory_stores m
                     where m.tenant_id = p_tenant and m.id = any (p_stores) and m.managed
                       and case m.scope when 'user' then s.user_id = m.subject
                                        when 'session' then s.id::text = m.subject
                                        else true end)
            or s.id in (select o.id from unnest(p_stores) as store (id)
                          join sessions o on o.tenant_id = p_tenant and o.resources <> '[]'
                           and o.resources @> jsonb_build_array(jsonb_build_object(
                                   'memory_store_id', 'memstore_' || replace(store.id::text, '-', '')))))
$$;

create or replace function trunkline.prompt_redacted() returns trigger
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
begin
    perform forget_prompts(new.tenant_id, array[new.store_id]);
    return null;
end
$$;

-- Versions go when they are erased or past their store's time; a memory that is only deleted keeps them, and leaves the prompt by
-- itself.
create function trunkline.prompts_erased() returns trigger
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
begin
    perform forget_prompts(g.tenant_id, array_agg(distinct g.store_id)) from gone g group by g.tenant_id;
    return null;
end
$$;
create trigger prompts_erased after delete on trunkline.memory_versions referencing old table as gone
    for each statement execute function trunkline.prompts_erased();

-- Delete up to `p_limit` beginnings that nobody has used for a day, the longest time that a cache may be said to hold; return how
-- many went. Looks across tenants, and tells of none.
create function trunkline.expire_prompts(p_limit int) returns bigint
    language sql security definer
    set search_path = trunkline, pg_temp
as $$
    with gone as (
        delete from session_prompts p
         using (select o.tenant_id, o.session_id
                  from session_prompts o join sessions s on s.tenant_id = o.tenant_id and s.id = o.session_id
                 where greatest(o.used_at, s.updated_at) < now() - interval '1 day' limit p_limit) as past
         where p.tenant_id = past.tenant_id and p.session_id = past.session_id
        returning 1
    )
    select count(*) from gone
$$;

revoke execute on function trunkline.forget_prompts(uuid, uuid[]), trunkline.prompt_redacted(), trunkline.prompts_erased(),
    trunkline.expire_prompts(int) from public;
grant execute on function trunkline.expire_prompts(int) to trunkline_control;
