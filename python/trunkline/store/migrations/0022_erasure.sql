-- Erasure: all that is kept of one user, or of one session, deleted in one transaction, and a note that it was.

set local role trunkline_owner;

-- What was erased, when and on whose word; of the content nothing, and of whom only a digest: who has the id can look it up.
create table trunkline.erasures (
    tenant_id uuid        not null references trunkline.tenants (id),
    id        uuid        not null,
    kind      text        not null check (kind in ('user', 'session')),
    digest    bytea       not null check (length(digest) = 32),  -- SHA-256 of tenant, kind and the user's or session's id
    agent_id  uuid,                                  -- only what was this agent's; null: of all
    key_id    uuid        not null,                  -- the key that asked for it
    erased    jsonb       not null,                  -- {kind of row: how many}
    erased_at timestamptz not null,
    primary key (tenant_id, id)
);
create index erasures_recent on trunkline.erasures (tenant_id, erased_at);
alter table trunkline.erasures enable row level security;
alter table trunkline.erasures force row level security;
create policy one_tenant on trunkline.erasures to trunkline_control
    using (tenant_id = trunkline.current_tenant()) with check (tenant_id = trunkline.current_tenant());
create policy owner on trunkline.erasures to trunkline_owner using (true) with check (true);
grant select on trunkline.erasures to trunkline_control;

create function trunkline.erasure_digest(p_tenant uuid, p_kind text, p_subject text) returns bytea
    language sql immutable parallel safe
return sha256(convert_to(p_tenant::text || ' ' || p_kind || ' ' || p_subject, 'UTF8'));

-- Erase what is kept of a user (`p_user`) or of a session (`p_session`), of the tenant of this transaction alone, and of
-- `p_agent` alone where a key may act for one agent only. Forks go with what they were forked from: they hold copies of it.
-- Returns how many rows of each kind; null where there is no such session. Rows of usage stay, without the user's id:
-- what calls took and cost is still counted.
create function trunkline.erase(p_user text, p_session uuid, p_agent uuid, p_key uuid, p_id uuid, p_at timestamptz) returns jsonb
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
declare
    v_tenant   uuid := current_tenant();
    v_sessions uuid[];
    v_stores   uuid[];
    v_calls    uuid[];
    v_rows     bigint;
    v_more     bigint;
    v_erased   jsonb;
begin
    if v_tenant is null or (p_user is null) = (p_session is null) then
        raise exception 'erase: one tenant, and either a user or a session' using errcode = 'invalid_parameter_value';
    end if;
    with recursive family as (
        select s.id from sessions s
         where s.tenant_id = v_tenant and (p_agent is null or s.agent_id = p_agent) and (s.user_id = p_user or s.id = p_session)
        union
        select f.id from family o join sessions f on f.tenant_id = v_tenant and f.parent_id = o.id
    )
    select coalesce(array_agg(id order by id), '{}') into v_sessions from family;
    if p_session is not null and cardinality(v_sessions) = 0 then
        return null;
    end if;
    -- Whoever adds to one of them waits, and then finds it gone.
    perform from sessions s where s.tenant_id = v_tenant and s.id = any (v_sessions) order by s.id for update;

    select coalesce(array_agg(k.id), '{}') into v_stores
      from (select s.id from memory_stores s
             where s.tenant_id = v_tenant and s.managed
               and s.owner_key = any (array(
                   select 'session ' || id::text from unnest(v_sessions) as id
                   union all
                   select 'user ' || a.id::text || ' ' || p_user from agents a
                    where a.tenant_id = v_tenant and p_user is not null and (p_agent is null or a.id = p_agent)))
             order by s.id for update) as k;
    select coalesce(array_agg(u.id), '{}') into v_calls from usage u
     where u.tenant_id = v_tenant and (p_agent is null or u.agent_id = p_agent)
       and (u.user_id = p_user or u.session_id = any (v_sessions));

    -- Memories before their stores, so that gateways that keep a copy of a block are told.
    delete from memories m where m.tenant_id = v_tenant and m.store_id = any (v_stores);
    get diagnostics v_rows = row_count;
    v_erased := jsonb_build_object('sessions', cardinality(v_sessions), 'stores', cardinality(v_stores), 'memories', v_rows);
    delete from memory_versions v where v.tenant_id = v_tenant and v.store_id = any (v_stores);
    get diagnostics v_rows = row_count;
    v_erased := v_erased || jsonb_build_object('memory_versions', v_rows);
    -- With their postings, tails and embeddings.
    delete from passages p where p.tenant_id = v_tenant and p.store_id = any (v_stores);
    get diagnostics v_rows = row_count;
    delete from passages p where p.tenant_id = v_tenant and p.session_id = any (v_sessions);
    get diagnostics v_more = row_count;
    v_erased := v_erased || jsonb_build_object('passages', v_rows + v_more);
    delete from memory_stores s where s.tenant_id = v_tenant and s.id = any (v_stores);
    delete from events e where e.tenant_id = v_tenant and e.session_id = any (v_sessions);
    get diagnostics v_rows = row_count;
    v_erased := v_erased || jsonb_build_object('events', v_rows);
    delete from call_bodies b where b.tenant_id = v_tenant and (b.call_id = any (v_calls) or b.session_id = any (v_sessions));
    get diagnostics v_rows = row_count;
    v_erased := v_erased || jsonb_build_object('call_bodies', v_rows);
    delete from cached_answers c where c.tenant_id = v_tenant and c.call_id = any (v_calls);
    get diagnostics v_rows = row_count;
    delete from idempotent_calls i where i.tenant_id = v_tenant and i.call_id = any (v_calls) and i.answer is not null;
    get diagnostics v_more = row_count;
    v_erased := v_erased || jsonb_build_object('kept_answers', v_rows + v_more);
    update usage u set user_id = null
     where u.tenant_id = v_tenant and u.user_id = p_user and (p_agent is null or u.agent_id = p_agent);
    get diagnostics v_rows = row_count;
    v_erased := v_erased || jsonb_build_object('calls_without_user', v_rows);
    delete from sessions s where s.tenant_id = v_tenant and s.id = any (v_sessions);
    perform pg_notify('trunkline_events', id::text) from unnest(v_sessions) as id;

    insert into erasures (tenant_id, id, kind, digest, agent_id, key_id, erased, erased_at)
    select v_tenant, p_id, k.kind, erasure_digest(v_tenant, k.kind, coalesce(p_user, p_session::text)), p_agent, p_key, v_erased, p_at
      from (select case when p_user is null then 'session' else 'user' end as kind) as k;
    return v_erased;
end
$$;

revoke execute on function trunkline.erasure_digest(uuid, text, text),
    trunkline.erase(text, uuid, uuid, uuid, uuid, timestamptz) from public;
grant execute on function trunkline.erasure_digest(uuid, text, text),
    trunkline.erase(text, uuid, uuid, uuid, uuid, timestamptz) to trunkline_control;
