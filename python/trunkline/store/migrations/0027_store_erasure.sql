-- Erasing from one store: what lies below a path, what was said in a session, in a time, or all of it.

set local role trunkline_owner;

alter table trunkline.erasures drop constraint erasures_kind_check;
alter table trunkline.erasures add constraint erasures_kind_check check (kind in ('user', 'session', 'store'));

-- Erase from a store of the tenant of this transaction: with a prefix (it ends in a slash; '/' is all) the memories that are
-- or ever were below it, with every version; without one, passages. A session and a time (from p_since on and before p_before;
-- of memories, when they were last written) say which of them; `p_all`, with nothing else, memories and passages alike. A note
-- is kept as of any erasure. Returns how many rows of each kind; null where there is no such store.
create function trunkline.erase_from_store(p_store uuid, p_prefix text, p_session uuid, p_since timestamptz, p_before timestamptz,
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
    insert into erasures (tenant_id, id, kind, digest, agent_id, key_id, erased, erased_at)
    values (v_tenant, p_id, 'store', erasure_digest(v_tenant, 'store', p_store::text), p_agent, p_key, v_erased, p_at);
    return v_erased;
end
$$;

revoke execute on function trunkline.erase_from_store(uuid, text, uuid, timestamptz, timestamptz, boolean, uuid, uuid, uuid,
                                                      timestamptz) from public;
grant execute on function trunkline.erase_from_store(uuid, text, uuid, timestamptz, timestamptz, boolean, uuid, uuid, uuid,
                                                     timestamptz) to trunkline_control;
