-- Blocks that agents share, and blocks of sessions that fork.

set local role trunkline_owner;

-- Begin a write: find an agent by id or name, find or make the stores of those of its blocks that are named in `p_blocks`,
-- and lock the blocks, in one order for all writers, so that no two wait for each other. A row a block; none for a name that
-- the agent does not declare. Where nobody has written a block yet, its path is locked, so that one writer makes it.
-- `store_id` is null where the call names no user or session for the block. `p_stores` are ids for stores to be made, one a
-- block. A block that another agent shares is taken as that agent declares it now, if it still shares it, and with the rights
-- that it gives now. `repeated` are the operations of versions that came from `p_event`, among the last hundred.
create or replace function trunkline.lock_blocks(p_tenant uuid, p_only uuid, p_agent uuid, p_name text, p_user text, p_session uuid,
                                      p_blocks text[], p_stores uuid[], p_event uuid, p_at timestamptz)
    returns table (agent_id uuid, agent_version int, "position" int, name text, scope text, description text, schema text,
                   options text, digest text, owner_id uuid, writable boolean, archived boolean, store_id uuid, id uuid,
                   content text, content_sha256 text, states jsonb, version int, version_id uuid, created_at timestamptz,
                   updated_at timestamptz, repeated jsonb)
    language plpgsql
    set search_path = trunkline, pg_temp
as $$
#variable_conflict use_column
declare
    v_agent   uuid;
    v_version int;
    b         record;
    v_store   uuid;
    v_archived boolean;
    v_key     text;
    v_made    int := 0;
    v_stores  uuid[] := '{}';
    v_closed  boolean[] := '{}';
    v_nth     int := 0;
    m         record;
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
       from (select distinct b.owner_id from agent_blocks b
              where b.tenant_id = p_tenant and b.agent_id = v_agent and b.version = v_version and b.name = any (p_blocks)
                and b.owner_id is not null order by b.owner_id) as d;
    -- All stores before any memory: whoever waits for a store then holds no memory that its maker could want.
    for b in
        select d.*, coalesce(d.owner_id, v_agent) as owner
          from agent_blocks d
         where d.tenant_id = p_tenant and d.agent_id = v_agent and d.version = v_version and d.name = any (p_blocks)
           and (d.owner_id is null or shares(p_tenant, d.owner_id, d.name, v_agent) is not null)
         order by array_position(array['org', 'agent', 'user', 'session'], d.scope), coalesce(d.owner_id, v_agent), d.name
    loop
        v_key := case b.scope when 'org' then 'org'
                              when 'agent' then 'agent ' || b.owner::text
                              when 'user' then 'user ' || b.owner::text || ' ' || p_user
                              else 'session ' || p_session::text end;
        v_store := null;
        v_archived := false;
        if v_key is not null then
            for attempt in 1 .. 3 loop
                select s.id, s.archived_at is not null into v_store, v_archived from memory_stores s
                 where s.tenant_id = p_tenant and s.managed and s.owner_key = v_key
                   for key share;
                exit when found;
                v_made := v_made + 1;
                insert into memory_stores (tenant_id, id, name, scope, agent_id, subject, managed, created_at, updated_at)
                values (p_tenant, p_stores[least(v_made, cardinality(p_stores))], v_key, b.scope,
                        case when b.scope <> 'org' then b.owner end,
                        case b.scope when 'user' then p_user when 'session' then p_session::text end, true, p_at, p_at)
                on conflict (tenant_id, owner_key) where managed do nothing;
            end loop;
        end if;
        v_stores := v_stores || v_store;
        v_closed := v_closed || v_archived;
    end loop;
    for b in
        select d.*
          from agent_blocks d
         where d.tenant_id = p_tenant and d.agent_id = v_agent and d.version = v_version and d.name = any (p_blocks)
           and (d.owner_id is null or shares(p_tenant, d.owner_id, d.name, v_agent) is not null)
         order by array_position(array['org', 'agent', 'user', 'session'], d.scope), coalesce(d.owner_id, v_agent), d.name
    loop
        v_nth := v_nth + 1;
        v_store := v_stores[v_nth];
        repeated := null;
        select e.* into m from memories e
         where e.tenant_id = p_tenant and e.store_id = v_store and e.path = '/blocks/' || b.name
           for update;
        if not found and v_store is not null then
            perform pg_advisory_xact_lock(hashtextextended(v_store::text || b.name, 5));
            select e.* into m from memories e
             where e.tenant_id = p_tenant and e.store_id = v_store and e.path = '/blocks/' || b.name
               for update;
        end if;
        if p_event is not null and m.id is not null then
            select jsonb_agg(v.operations) into repeated from memory_versions v
             where v.tenant_id = p_tenant and v.memory_id = m.id and v.version > m.version - 100 and v.event_id = p_event;
        end if;
        agent_id := v_agent;
        agent_version := v_version;
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
        archived := v_closed[v_nth];
        store_id := v_store;
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

-- A fork takes the session's own blocks with it, as they stood at the point where it parts: before the first event of the
-- origin that the fork does not have. What is left of an earlier state is its version at that time.
create function trunkline.session_forked() returns trigger
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
declare
    v_from  memory_stores;
    v_store uuid := gen_random_uuid();
    v_until timestamptz;
begin
    select s.* into v_from from memory_stores s
     where s.tenant_id = new.tenant_id and s.managed and s.owner_key = 'session ' || new.parent_id::text;
    if not found then
        return null;
    end if;
    select min(e.created_at) into v_until from events e
     where e.tenant_id = new.tenant_id and e.session_id = new.parent_id and e.seq > coalesce(new.parent_seq, 0);
    insert into memory_stores (tenant_id, id, name, description, metadata, scope, agent_id, subject, managed, created_at, updated_at)
    values (new.tenant_id, v_store, 'session ' || new.id::text, v_from.description, v_from.metadata, 'session', v_from.agent_id,
            new.id::text, true, new.created_at, new.created_at)
    on conflict (tenant_id, owner_key) where managed do nothing;
    -- The fork's first turn may have written to its memory before it was recorded: what it wrote stays.
    select s.id into v_store from memory_stores s
     where s.tenant_id = new.tenant_id and s.managed and s.owner_key = 'session ' || new.id::text;
    with copied as (
        select gen_random_uuid() as id, gen_random_uuid() as version_id, m.block, m.rendering, m.rendered, m.rendered_tokens,
               m.rendered_for, m.render_again_at, m.version_id = v.id as current, v.path, v.content, v.content_sha256,
               v.content_bytes, v.value, v.states, v.actor_type, v.actor_id, v.event_id, m.version, v.version as then
          from memories m
         cross join lateral (
               select o.* from memory_versions o
                where o.tenant_id = m.tenant_id and o.memory_id = m.id and (v_until is null or o.created_at < v_until)
                order by o.version desc limit 1) as v
         where m.tenant_id = new.tenant_id and m.store_id = v_from.id and m.block is not null and v.content is not null
    ), made as (
        insert into memories (tenant_id, store_id, id, path, content, content_sha256, content_bytes, block, value, states,
                              rendering, rendered, rendered_tokens, rendered_for, render_again_at, version, version_id,
                              created_at, updated_at)
        select new.tenant_id, v_store, c.id, c.path, c.content, c.content_sha256, c.content_bytes, c.block, c.value, c.states,
               case when c.current then c.rendering else rendering_of(c.value, c.states) end,
               case when c.current then c.rendered end, case when c.current then c.rendered_tokens end,
               case when c.current then c.rendered_for else 'copied' end, case when c.current then c.render_again_at end,
               1, c.version_id, new.created_at, new.created_at
          from copied c
        on conflict (tenant_id, store_id, path) do nothing
        returning id
    )
    insert into memory_versions (tenant_id, store_id, id, memory_id, version, operation, operations, path, content,
                                 content_sha256, content_bytes, value, states, actor_type, actor_id, session_id, event_id,
                                 created_at)
    select new.tenant_id, v_store, c.version_id, c.id, 1, 'created',
           jsonb_build_array(jsonb_build_object('op', 'fork', 'session_id', 'sesn_' || replace(new.parent_id::text, '-', ''),
                                                'version', c.then)),
           c.path, c.content, c.content_sha256, c.content_bytes, c.value, c.states, c.actor_type, c.actor_id, new.parent_id,
           c.event_id, new.created_at
      from copied c join made on made.id = c.id;
    return null;
end
$$;

-- The lines of a value that was not the last one when it was copied. Keys of objects within a field may stand in another order
-- than Python would put them, and what people cannot see is a question mark; the next write puts them right.
create function trunkline.rendering_of(p_value jsonb, p_states jsonb) returns jsonb
    language sql immutable
    set search_path = trunkline, pg_temp
as $$
    select jsonb_build_object(
        'lines', (select coalesce(jsonb_object_agg(key, key || ': ' || replace(replace(
                             regexp_replace(value::text, '[\u007f-\u009f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\U000e0000-\U000e007f]', '?', 'g'),
                             '<', '\u003c'), '>', '\u003e')), '{}')
                    from jsonb_each(p_value)),
        'against', (select coalesce(jsonb_object_agg(key, 'something else'), '{}')
                      from jsonb_each(p_states) where value ? 'against'))
$$;

create trigger forked after insert on trunkline.sessions
    for each row when (new.parent_id is not null) execute function trunkline.session_forked();

revoke execute on function trunkline.session_forked(), trunkline.rendering_of(jsonb, jsonb) from public;
