-- Blocks: what their rendering depends on, the states of their fields, and a write in two round trips.

set local role trunkline_owner;

-- How a version declares a block, worked out for the renderer. `head` is the text before the fields; `fields` are sorted by
-- name, `keep_order` by what is kept first where the text must be cut; `digest` names all that the rendering depends on.
alter table trunkline.agent_blocks
    add column head         text,
    add column fields       text[],
    add column keep_order   text[],
    add column required     text[],
    add column token_budget int,                     -- null: as long as it is
    add column priority     int    not null default 0,
    add column options      jsonb  not null default '{}',  -- what only the control plane reads
    add column digest       text   not null default '',
    add column owner_id     uuid,                    -- the agent whose block it is; null: this one
    add column writable     boolean not null default true;
update trunkline.agent_blocks b
   set head = (regexp_match(b.empty_rendered, '^(.*?)\n(?:unknown: |required but unknown: |</memory>)'))[1],
       fields = array(select k from jsonb_object_keys(b.schema -> 'properties') as k order by k collate "C"),
       keep_order = array(select k from jsonb_object_keys(b.schema -> 'properties') as k
                           order by not coalesce(b.schema -> 'required' ? k, false), k collate "C"),
       required = array(select k from jsonb_array_elements_text(coalesce(b.schema -> 'required', '[]')) as k order by k collate "C");
alter table trunkline.agent_blocks
    alter column head set not null,
    alter column fields set not null,
    alter column keep_order set not null,
    alter column required set not null;

alter table trunkline.agent_versions
    add column memory_budget int not null default 2000;  -- tokens of all blocks in one prompt
update trunkline.agent_versions
   set memory_budget = coalesce((definition #>> '{memory,token_budget}')::int, 2000) where memory_enabled;

-- `rendered` is what the model reads as long as the block is declared as `rendered_for` says and `render_again_at` (when a
-- field becomes stale) has not come; after that the text is put together of `rendering`.
alter table trunkline.memories
    add column rendering       jsonb,                -- {lines: {field: line}, against: {field: what else was said}}
    add column rendered_for    text not null default '',
    add column render_again_at timestamptz;

-- The states of the fields after the write, with where each value came from: a value's provenance stays with it.
alter table trunkline.memory_versions add column states jsonb;

-- Only what a gateway may keep a copy of is told: blocks of agents that do not read on every call. NOTIFY lets one
-- transaction commit at a time, all over the server, and so it is not for every write.
create or replace function trunkline.memory_changed() returns trigger
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
           from memory_stores s
          where s.tenant_id = changed.tenant_id and s.id = changed.store_id and s.scope <> 'session'
            and exists (select from agents a
                          join agent_versions v on v.tenant_id = a.tenant_id and v.agent_id = a.id
                                               and v.version = a.current_version
                         where a.tenant_id = s.tenant_id and not v.memory_refresh
                           and (s.agent_id is null or a.id = s.agent_id
                                or exists (select from agent_blocks b
                                            where b.tenant_id = a.tenant_id and b.agent_id = a.id and b.version = a.current_version
                                              and b.owner_id = s.agent_id)));
    end if;
    return null;
end
$$;

-- The number of the lock that a change of an agent's schemas takes alone, and each writer of its blocks with others.
create function trunkline.schema_lock(p_agent uuid) returns bigint
    language sql immutable parallel safe
as $$ select hashtextextended(p_agent::text, 4) $$;

-- Begin a write: find an agent by id or name, find or make the stores of those of its blocks that are named in `p_blocks`,
-- and lock the blocks, in one order for all writers, so that no two wait for each other. A row a block; none for a name that
-- the agent does not declare. Where nobody has written a block yet, its path is locked, so that one writer makes it.
-- `store_id` is null where the call names no user or session for the block. `p_stores` are ids for stores to be made, one a
-- block. `repeated` are the operations of versions that came from `p_event`, among the last hundred.
create function trunkline.lock_blocks(p_tenant uuid, p_only uuid, p_agent uuid, p_name text, p_user text, p_session uuid,
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
    -- All stores before any memory: whoever waits for a store then holds no memory that its maker could want.
    for b in
        select d.*, coalesce(d.owner_id, v_agent) as owner
          from agent_blocks d
         where d.tenant_id = p_tenant and d.agent_id = v_agent and d.version = v_version and d.name = any (p_blocks)
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

-- Write the next state of a memory that is locked (of a new one: at a path that is locked, or whose store is) and the version
-- that records it. False, with nothing written, if the path of a new one is taken.
create function trunkline.write_memory(
    p_tenant uuid, p_store uuid, p_id uuid, p_path text, p_content text, p_sha256 text, p_bytes int, p_block text, p_states jsonb,
    p_rendering jsonb, p_rendered text, p_tokens int, p_rendered_for text, p_render_again_at timestamptz, p_version int,
    p_version_id uuid, p_created_at timestamptz, p_at timestamptz, p_new boolean, p_operations jsonb, p_actor_type text, p_actor_id text,
    p_session uuid, p_event uuid) returns boolean
    language plpgsql
    set search_path = trunkline, pg_temp
as $$
declare
    v_value jsonb := case when p_block is not null then p_content::jsonb end;
begin
    if p_new then
        insert into memories (tenant_id, store_id, id, path, content, content_sha256, content_bytes, block, value, states,
                              rendering, rendered, rendered_tokens, rendered_for, render_again_at, version, version_id,
                              created_at, updated_at)
        values (p_tenant, p_store, p_id, p_path, p_content, p_sha256, p_bytes, p_block, v_value, p_states, p_rendering,
                p_rendered, p_tokens, coalesce(p_rendered_for, ''), p_render_again_at, p_version, p_version_id, p_created_at, p_at)
        on conflict (tenant_id, store_id, path) do nothing;
        if not found then
            return false;
        end if;
    else
        update memories
           set path = p_path, content = p_content, content_sha256 = p_sha256, content_bytes = p_bytes, value = v_value,
               states = p_states, rendering = p_rendering, rendered = p_rendered, rendered_tokens = p_tokens,
               rendered_for = coalesce(p_rendered_for, ''), render_again_at = p_render_again_at, version = p_version,
               version_id = p_version_id, updated_at = p_at
         where tenant_id = p_tenant and store_id = p_store and id = p_id;
    end if;
    insert into memory_versions (tenant_id, store_id, id, memory_id, version, operation, operations, path, content,
                                 content_sha256, content_bytes, value, states, actor_type, actor_id, session_id, event_id,
                                 created_at)
    values (p_tenant, p_store, p_version_id, p_id, p_version, case when p_new then 'created' else 'modified' end, p_operations,
            p_path, p_content, p_sha256, p_bytes, v_value, p_states, p_actor_type, p_actor_id, p_session, p_event, p_at);
    return true;
end
$$;

-- A block's text at a moment, put together of the lines that were rendered when it was written. The same as
-- `memory/render.py` makes, byte for byte; a test holds them together.
create function trunkline.render_block(b trunkline.agent_blocks, p_rendering jsonb, p_states jsonb, p_at timestamptz) returns text
    language plpgsql stable
    set search_path = trunkline, pg_temp
as $$
declare
    lines      jsonb := p_rendering -> 'lines';
    against    jsonb := p_rendering -> 'against';
    v_known    text[];
    v_unknown  text;
    v_required text;
    v_stale    text;
    v_against  text;
    v_tail     text := '';
    v_body     text;
    v_kept     text[] := '{}';
    v_left     text[] := '{}';
    v_room     int;
    field      text;
begin
    select array_agg(f order by nth) filter (where lines ? f),
           string_agg(f, ', ' order by nth) filter (where not lines ? f and f <> all (b.required)),
           string_agg(f, ', ' order by nth) filter (where not lines ? f and f = any (b.required)),
           string_agg(f, ', ' order by nth) filter (where lines ? f and not against ? f
                                                      and (p_states -> f ->> 'stale_at')::timestamptz <= p_at),
           string_agg(f || ', also said to be ' || (against ->> f), '; ' order by nth) filter (where lines ? f and against ? f)
      into v_known, v_unknown, v_required, v_stale, v_against
      from unnest(b.fields) with ordinality as u(f, nth);
    v_tail := concat(E'\nunknown: ' || v_unknown, E'\nrequired but unknown: ' || v_required,
                     E'\nstale, confirm before use: ' || v_stale, E'\nconflicted: ' || v_against, E'\n</memory>');
    select string_agg(E'\n' || (lines ->> f), '' order by nth) into v_body from unnest(v_known) with ordinality as u(f, nth);
    if b.token_budget is null or octet_length(b.head || coalesce(v_body, '') || v_tail) <= b.token_budget * 4 then
        return b.head || coalesce(v_body, '') || v_tail;
    end if;
    v_room := b.token_budget * 4 - octet_length(b.head || v_tail);
    foreach field in array b.keep_order loop
        if lines ? field then
            if octet_length(lines ->> field) < v_room then
                v_room := v_room - octet_length(lines ->> field) - 1;
                v_kept := v_kept || field;
            else
                v_left := v_left || field;
            end if;
        end if;
    end loop;
    select string_agg(E'\n' || (lines ->> f), '' order by nth) filter (where f = any (v_kept)),
           E'\nleft out, too long: ' || string_agg(f, ', ' order by nth) filter (where f = any (v_left))
      into v_body, v_unknown
      from unnest(b.fields) with ordinality as u(f, nth);
    return concat(b.head, v_body, v_unknown, v_tail);
end
$$;

-- The blocks of one prompt. A block that another agent shares is there as long as that agent's current version shares it.
-- Over the agent's budget, whole blocks are left out: what has the lowest priority, then what stands last; a line says so.
create function trunkline.rendered_blocks(p_tenant uuid, p_agent uuid, p_version int, p_user text, p_session uuid) returns text
    language plpgsql stable
    set search_path = trunkline, pg_temp
    set plan_cache_mode = force_generic_plan
as $$
declare
    v_at     timestamptz := clock_timestamp();
    v_texts  text[];
    v_names  text[];
    v_order  int[];
    v_bytes  bigint;
    v_budget int;
    v_tools  boolean;
    v_kept   boolean[];
    v_left   text;
    i        int;
begin
    select array_agg(t.rendered order by t.position), array_agg(t.name order by t.position),
           array_agg(t.priority order by t.position), sum((octet_length(t.rendered) + 3) / 4)
      into v_texts, v_names, v_order, v_bytes
      from (select b.position, b.priority, b.name,
                   case when m.id is null then b.empty_rendered
                        when m.rendered_for = b.digest and (m.render_again_at is null or m.render_again_at > v_at) then m.rendered
                        when m.rendering is null then m.rendered
                        else render_block(b, m.rendering, m.states, v_at) end as rendered
              from agent_blocks b
              left join memory_stores s on s.tenant_id = p_tenant and s.managed and s.owner_key =
                   case b.scope when 'org' then 'org'
                                when 'agent' then 'agent ' || coalesce(b.owner_id, p_agent)::text
                                when 'user' then 'user ' || coalesce(b.owner_id, p_agent)::text || ' ' || p_user
                                else 'session ' || p_session::text end
              left join memories m on m.tenant_id = p_tenant and m.store_id = s.id and m.path = '/blocks/' || b.name
             where b.tenant_id = p_tenant and b.agent_id = p_agent and b.version = p_version
               and (b.scope <> 'user' or p_user is not null)
               and (b.owner_id is null or shares(p_tenant, b.owner_id, b.name, p_agent) is not null)) as t;
    select v.memory_budget, v.memory_tools <> '[]' into v_budget, v_tools
      from agent_versions v where v.tenant_id = p_tenant and v.agent_id = p_agent and v.version = p_version;
    if v_bytes is null or v_bytes <= v_budget then
        return array_to_string(v_texts, E'\n');
    end if;
    for i in select nth from unnest(v_order) with ordinality as u(priority, nth) order by priority desc, nth loop
        if (octet_length(v_texts[i]) + 3) / 4 <= v_budget then
            v_budget := v_budget - (octet_length(v_texts[i]) + 3) / 4;
            v_kept[i] := true;
        end if;
    end loop;
    select string_agg(n, ', ' order by nth) into v_left from unnest(v_names) with ordinality as u(n, nth) where v_kept[nth] is null;
    return concat_ws(E'\n', (select string_agg(t, E'\n' order by nth) from unnest(v_texts) with ordinality as u(t, nth) where v_kept[nth]),
                     format('<memory left-out="%s">Too long for this prompt%s.</memory>', v_left,
                            case when v_tools then '; memory_read shows them' else '' end));
end
$$;

-- How an agent's current version shares a block with another agent: read_only, read_write, or null: not.
create function trunkline.shares(p_tenant uuid, p_owner uuid, p_block text, p_with uuid) returns text
    language sql stable
    set search_path = trunkline, pg_temp
as $$
    select b.options #>> array['shared_with', w.name]
      from agents a
      join agent_blocks b on b.tenant_id = a.tenant_id and b.agent_id = a.id and b.version = a.current_version and b.name = p_block
      join agents w on w.tenant_id = a.tenant_id and w.id = p_with
     where a.tenant_id = p_tenant and a.id = p_owner and a.archived_at is null
$$;

-- As before; the blocks are another function's.
create or replace function trunkline.gateway_context(p_tenant uuid, p_agent uuid, p_version int, p_user text, p_session uuid,
                                          p_chain bytea, p_query text, p_recall_tokens int)
    returns table (session_id uuid, known boolean, at_head boolean, refused boolean, head bytea, blocks text, recall text)
    language plpgsql stable security definer
    set search_path = trunkline, pg_temp
as $$
declare
    store uuid;
    log   sessions;
begin
    known := false;
    at_head := false;
    refused := false;
    session_id := p_session;
    if p_session is not null then
        select s.* into log from sessions s where s.tenant_id = p_tenant and s.id = p_session;
        known := found;
        if known then
            if log.agent_id <> p_agent or log.user_id is distinct from p_user then
                refused := true;
                return next;
                return;
            end if;
            at_head := log.head_chain is not distinct from p_chain;
            if not at_head and p_chain is not null then
                select s.id into session_id from sessions s
                 where s.tenant_id = p_tenant and s.agent_id = p_agent and s.head_chain = p_chain and s.root_id = log.root_id
                 order by s.updated_at desc limit 1;
                at_head := found;
                session_id := coalesce(session_id, p_session);
            end if;
            if not at_head then
                head := log.head_chain;
            end if;
        end if;
    elsif p_chain is not null then
        select s.id into session_id from sessions s
         where s.tenant_id = p_tenant and s.agent_id = p_agent and s.head_chain = p_chain
           and s.user_id is not distinct from p_user
         order by s.updated_at desc limit 1;
        known := found;
        at_head := found;
    end if;

    blocks := rendered_blocks(p_tenant, p_agent, p_version, p_user, session_id);

    if p_recall_tokens > 0 and p_query is not null and p_user is not null then
        select s.id into store from memory_stores s
         where s.tenant_id = p_tenant and s.managed and s.owner_key = 'user ' || p_agent::text || ' ' || p_user;
        if found then
            select string_agg(format('- [%s %s] %s', to_char(r.created_at at time zone 'UTC', 'YYYY-MM-DD'), r.role,
                                     replace(replace(regexp_replace(r.content, '\s+', ' ', 'g'), '<', '\u003c'), '>', '\u003e')),
                              E'\n' order by r.created_at, r.passage_id) into recall
              from recall(p_tenant, store, p_query, 20, p_recall_tokens, session_id) r;
        end if;
    end if;
    return next;
end
$$;

revoke execute on function trunkline.schema_lock(uuid), trunkline.shares(uuid, uuid, text, uuid),
    trunkline.lock_blocks(uuid, uuid, uuid, text, text, uuid, text[], uuid[], uuid, timestamptz),
    trunkline.write_memory(uuid, uuid, uuid, text, text, text, int, text, jsonb, jsonb, text, int, text, timestamptz, int, uuid,
                           timestamptz, timestamptz, boolean, jsonb, text, text, uuid, uuid),
    trunkline.render_block(trunkline.agent_blocks, jsonb, jsonb, timestamptz),
    trunkline.rendered_blocks(uuid, uuid, int, text, uuid) from public;
grant execute on function trunkline.schema_lock(uuid), trunkline.shares(uuid, uuid, text, uuid),
    trunkline.lock_blocks(uuid, uuid, uuid, text, text, uuid, text[], uuid[], uuid, timestamptz),
    trunkline.write_memory(uuid, uuid, uuid, text, text, text, int, text, jsonb, jsonb, text, int, text, timestamptz, int, uuid,
                           timestamptz, timestamptz, boolean, jsonb, text, text, uuid, uuid),
    trunkline.render_block(trunkline.agent_blocks, jsonb, jsonb, timestamptz),
    trunkline.rendered_blocks(uuid, uuid, int, text, uuid) to trunkline_control;
