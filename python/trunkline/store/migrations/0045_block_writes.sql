-- Writes of blocks, many at once: one call locks what many requests want, one writes what they make of it.

set local role trunkline_owner;

drop function trunkline.lock_blocks(uuid, uuid, uuid, text, text, uuid, text[], uuid[], uuid, timestamptz);
drop function trunkline.write_memory(uuid, uuid, uuid, text, text, text, int, text, jsonb, jsonb, text, int, text, timestamptz, int,
                                     uuid, timestamptz, timestamptz, boolean, jsonb, text, text, uuid, uuid);

-- Begin writes: find an agent by id or name, find or make the stores of the wanted blocks, and lock the blocks, in one order for
-- all writers, so that no two wait for each other. A row for each that is wanted and that the agent declares. Where nobody has
-- written a block yet, its path is locked, so that one writer makes it. `store_id` is null where no user or session is named
-- for the block. A block that another agent shares is taken as that agent declares it now, if it still shares it, and with the
-- rights that it gives now. `repeated` are the operations of versions that came from the event, among the last hundred.
--
-- `p_wanted` is an array of objects {nth, block, user_id, session_id, event_id, store_id}: `nth` is the caller's own number of
-- it, `store_id` an id for the store, should it be made (`made`).
create function trunkline.lock_blocks(p_tenant uuid, p_only uuid, p_agent uuid, p_name text, p_wanted jsonb, p_at timestamptz)
    returns table (nth int, agent_id uuid, "position" int, name text, scope text, description text, schema text,
                   options text, digest text, owner_id uuid, writable boolean, store_id uuid, archived boolean, made boolean, id uuid,
                   content text, content_sha256 text, states jsonb, version int, version_id uuid, created_at timestamptz,
                   updated_at timestamptz, repeated jsonb)
    language plpgsql
    set search_path = trunkline, pg_temp
as $$
#variable_conflict use_column
declare
    v_agent    uuid;
    v_version  int;
    b          record;
    v_nths     int[] := '{}';
    v_names    text[] := '{}';
    v_events   uuid[] := '{}';
    v_stores   uuid[] := '{}';
    v_made     boolean[] := '{}';
    v_archived boolean[] := '{}';
    v_store    uuid;
    v_closed   boolean;
    m          record;
begin
    select a.id into v_agent from agents a
     where a.tenant_id = p_tenant and (p_only is null or a.id = p_only)
       and (a.id = p_agent or (p_name is not null and a.name = p_name and a.archived_at is null));
    if not found then
        return;
    end if;
    perform pg_advisory_xact_lock_shared(schema_lock(v_agent));
    select a.current_version into v_version from agents a where a.tenant_id = p_tenant and a.id = v_agent;
    perform pg_advisory_xact_lock_shared(schema_lock(d.owner_id))
       from (select distinct d.owner_id from agent_blocks d
              where d.tenant_id = p_tenant and d.agent_id = v_agent and d.version = v_version and d.owner_id is not null
                and d.name in (select w.block from jsonb_to_recordset(p_wanted) as w(block text))
              order by d.owner_id) as d;
    -- All stores before any memory: whoever waits for a store then holds no memory that its maker could want.
    for b in
        select w.nth, w.event_id, w.store_id, d.name, d.scope, coalesce(d.owner_id, v_agent) as owner,
               case d.scope when 'user' then w.user_id when 'session' then w.session_id::text end as subject,
               case d.scope when 'org' then 'org'
                            when 'agent' then 'agent ' || coalesce(d.owner_id, v_agent)::text
                            when 'user' then 'user ' || coalesce(d.owner_id, v_agent)::text || ' ' || w.user_id
                            else 'session ' || w.session_id::text end as key
          from jsonb_to_recordset(p_wanted) as w(nth int, block text, user_id text, session_id uuid, event_id uuid, store_id uuid)
          join agent_blocks d on d.tenant_id = p_tenant and d.agent_id = v_agent and d.version = v_version and d.name = w.block
         where d.owner_id is null or shares(p_tenant, d.owner_id, d.name, v_agent) is not null
         order by array_position(array['org', 'agent', 'user', 'session'], d.scope), key, d.name, w.nth
    loop
        v_store := null;
        v_closed := false;
        if b.key is not null then
            for attempt in 1 .. 4 loop
                select s.id, s.archived_at is not null into v_store, v_closed from memory_stores s
                 where s.tenant_id = p_tenant and s.managed and s.owner_key = b.key
                   for key share;
                exit when found or attempt = 4;
                insert into memory_stores (tenant_id, id, name, scope, agent_id, subject, managed, created_at, updated_at)
                values (p_tenant, b.store_id, b.key, b.scope, case when b.scope <> 'org' then b.owner end, b.subject, true, p_at, p_at)
                on conflict (tenant_id, owner_key) where managed do nothing;
            end loop;
        end if;
        v_nths := v_nths || b.nth;
        v_names := v_names || b.name;
        v_events := v_events || b.event_id;
        v_stores := v_stores || v_store;
        v_made := v_made || coalesce(v_store = b.store_id, false);
        v_archived := v_archived || coalesce(v_closed, false);
    end loop;
    for b in
        select w.nth as wanted, w.event_id, w.store_id, w.made, w.archived, d.*
          from unnest(v_nths, v_names, v_events, v_stores, v_made, v_archived)
               with ordinality as w(nth, name, event_id, store_id, made, archived, place)
          join agent_blocks d on d.tenant_id = p_tenant and d.agent_id = v_agent and d.version = v_version and d.name = w.name
         order by w.place
    loop
        repeated := null;
        select e.* into m from memories e
         where e.tenant_id = p_tenant and e.store_id = b.store_id and e.path = '/blocks/' || b.name
           for update;
        if not found and b.store_id is not null then
            perform pg_advisory_xact_lock(hashtextextended(b.store_id::text || b.name, 5));
            select e.* into m from memories e
             where e.tenant_id = p_tenant and e.store_id = b.store_id and e.path = '/blocks/' || b.name
               for update;
        end if;
        if b.event_id is not null and m.id is not null then
            select jsonb_agg(v.operations) into repeated from memory_versions v
             where v.tenant_id = p_tenant and v.memory_id = m.id and v.version > m.version - 100 and v.event_id = b.event_id;
        end if;
        nth := b.wanted;
        agent_id := v_agent;
        "position" := b.position;
        name := b.name;
        scope := b.scope;
        description := b.description;
        schema := b.schema::text;
        options := b.options::text;
        digest := b.digest;
        owner_id := b.owner_id;
        writable := b.writable;
        if b.owner_id is not null then
            writable := b.writable and shares(p_tenant, b.owner_id, b.name, v_agent) = 'read_write';
            select o.description, o.schema::text, o.options::text into description, schema, options
              from agents a
              join agent_blocks o on o.tenant_id = a.tenant_id and o.agent_id = a.id and o.version = a.current_version
                                 and o.name = b.name
             where a.tenant_id = p_tenant and a.id = b.owner_id;
        end if;
        store_id := b.store_id;
        archived := b.archived;
        made := b.made;
        id := m.id;
        content := m.content;
        content_sha256 := m.content_sha256;
        states := m.states;
        version := m.version;
        version_id := m.version_id;
        created_at := m.created_at;
        updated_at := m.updated_at;
        return next;
    end loop;
end
$$;

-- Write the next states of memories that are locked (of new ones: at paths that are locked, or whose store is) and the versions
-- that record them, in their order. `put` of each is insert, update, or, where a later one of the array follows it, null: then its
-- version alone is written. False, with nothing written, if the path of a new one is taken.
create function trunkline.write_memories(p_tenant uuid, p_rows jsonb) returns boolean
    language plpgsql
    set search_path = trunkline, pg_temp
as $$
declare
    v_new  int;
    v_made int;
begin
    select count(*) into v_new from jsonb_array_elements(p_rows) as r where r ->> 'put' = 'insert';
    if v_new > 0 then
        insert into memories (tenant_id, store_id, id, path, content, content_sha256, content_bytes, block, value, states,
                              rendering, rendered, rendered_tokens, rendered_for, render_again_at, version, version_id,
                              created_at, updated_at)
        select p_tenant, r.store_id, r.id, r.path, r.content, r.sha256, r.bytes, r.block,
               case when r.block is not null then r.content::jsonb end, r.states, r.rendering, r.rendered, r.tokens,
               coalesce(r.rendered_for, ''), r.render_again_at, r.version, r.version_id, r.created_at, r.at
          from jsonb_to_recordset(p_rows) as r(put text, store_id uuid, id uuid, path text, content text, sha256 text, bytes int,
                                               block text, states jsonb, rendering jsonb, rendered text, tokens int,
                                               rendered_for text, render_again_at timestamptz, version int, version_id uuid,
                                               created_at timestamptz, at timestamptz)
         where r.put = 'insert'
        on conflict (tenant_id, store_id, path) do nothing;
        get diagnostics v_made = row_count;
        if v_made < v_new then
            if v_made > 0 then
                raise exception 'the path of a new memory is taken' using errcode = 'serialization_failure';
            end if;
            return false;
        end if;
    end if;
    with rows as materialized (
        select r.*, case when r.block is not null then r.content::jsonb end as value
          from jsonb_to_recordset(p_rows) as r(put text, store_id uuid, id uuid, path text, content text, sha256 text, bytes int,
                                               block text, states jsonb, rendering jsonb, rendered text, tokens int,
                                               rendered_for text, render_again_at timestamptz, version int, version_id uuid,
                                               at timestamptz, operation text, operations jsonb, actor_type text, actor_id text,
                                               session_id uuid, event_id uuid)
    ), changed as (
        update memories m
           set path = r.path, content = r.content, content_sha256 = r.sha256, content_bytes = r.bytes, value = r.value,
               states = r.states, rendering = r.rendering, rendered = r.rendered, rendered_tokens = r.tokens,
               rendered_for = coalesce(r.rendered_for, ''), render_again_at = r.render_again_at, version = r.version,
               version_id = r.version_id, updated_at = r.at
          from rows r
         where r.put = 'update' and m.tenant_id = p_tenant and m.id = r.id and m.store_id = r.store_id
    )
    insert into memory_versions (tenant_id, store_id, id, memory_id, version, operation, operations, path, content,
                                 content_sha256, content_bytes, value, states, actor_type, actor_id, session_id, event_id,
                                 created_at)
    select p_tenant, r.store_id, r.version_id, r.id, r.version, r.operation, r.operations, r.path, r.content, r.sha256, r.bytes,
           r.value, r.states, r.actor_type, r.actor_id, r.session_id, r.event_id, r.at
      from rows r;
    return true;
end
$$;

-- As before, of all that a statement changed at once; and an agent is found by its id, not by looking through the tenant's.
create index agent_versions_cached on trunkline.agent_versions (tenant_id, agent_id, version) where not memory_refresh;
create index agent_blocks_shared on trunkline.agent_blocks (tenant_id, owner_id) where owner_id is not null;

create or replace function trunkline.memory_changed() returns trigger
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
begin
    perform pg_notify('trunkline_memory',
                      concat_ws(' ', s.tenant_id, s.scope, coalesce(s.agent_id::text, '-'), coalesce(s.subject, '-')))
       from (select distinct c.tenant_id, c.store_id from changed c where c.block is not null) as c
       join memory_stores s on s.tenant_id = c.tenant_id and s.id = c.store_id
      where s.scope <> 'session'
        and (exists (select from agent_versions v
                       join agents a on a.tenant_id = v.tenant_id and a.id = v.agent_id and a.current_version = v.version
                      where v.tenant_id = s.tenant_id and not v.memory_refresh and (s.agent_id is null or v.agent_id = s.agent_id))
             or exists (select from agent_blocks b
                          join agents a on a.tenant_id = b.tenant_id and a.id = b.agent_id and a.current_version = b.version
                          join agent_versions v on v.tenant_id = b.tenant_id and v.agent_id = b.agent_id and v.version = b.version
                         where b.tenant_id = s.tenant_id and b.owner_id = s.agent_id and not v.memory_refresh));
    return null;
end
$$;

drop trigger changed on trunkline.memories;
create trigger changed_by_insert after insert on trunkline.memories referencing new table as changed
    for each statement execute function trunkline.memory_changed();
create trigger changed_by_update after update on trunkline.memories referencing new table as changed
    for each statement execute function trunkline.memory_changed();
create trigger changed_by_delete after delete on trunkline.memories referencing old table as changed
    for each statement execute function trunkline.memory_changed();

revoke execute on function trunkline.lock_blocks(uuid, uuid, uuid, text, jsonb, timestamptz), trunkline.write_memories(uuid, jsonb) from public;
grant execute on function trunkline.lock_blocks(uuid, uuid, uuid, text, jsonb, timestamptz), trunkline.write_memories(uuid, jsonb) to trunkline_control;
