-- Stores attached to a session: what its agent reads of them, and forks that keep them. And whose memory a key may speak of.

set local role trunkline_owner;

-- The stores attached to a session, in the order in which they were attached. `name` is the directory that a store is shown as:
-- its name of then, or where another has that or it would be none, with a part of its id. A store deleted since is left out.
create function trunkline.attached_stores(p_tenant uuid, p_session uuid)
    returns table (nth bigint, name text, id uuid, writable boolean, description text, instructions text)
    language sql stable
    set search_path = trunkline, pg_temp
as $$
    select a.nth,
           case when a.slug in ('', 'blocks') or row_number() over (partition by a.slug order by a.nth) > 1
                then concat_ws('-', nullif(a.slug, ''), right(replace(a.id::text, '-', ''), 8)) else a.slug end,
           a.id, a.writable, a.description, a.instructions
      from (select r.nth, m.id, r.resource ->> 'access' is distinct from 'read_only' as writable,
                   r.resource ->> 'description' as description, r.resource ->> 'instructions' as instructions,
                   trim(both '-' from left(regexp_replace(lower(r.resource ->> 'name'), '[^a-z0-9]+', '-', 'g'), 64)) as slug
              from sessions s
             cross join jsonb_array_elements(s.resources) with ordinality as r(resource, nth)
              join memory_stores m on m.tenant_id = p_tenant and m.id = substr(r.resource ->> 'memory_store_id', 10)::uuid
             where s.tenant_id = p_tenant and s.id = p_session and r.resource ->> 'type' = 'memory_store') as a
     order by a.nth
$$;

-- What the prompt says of a session's stores: their files by path, with what they say as long as `p_budget` tokens (of four bytes)
-- last, store by store in byte order of the paths; of each store the first hundred.
create function trunkline.rendered_stores(p_tenant uuid, p_session uuid, p_budget int) returns text
    language plpgsql stable
    set search_path = trunkline, pg_temp
as $$
declare
    store   record;
    v_left  bigint := p_budget::bigint * 4;
    v_files text;
    v_shown bigint;
    v_count bigint;
    v_texts text[] := '{}';
begin
    for store in select * from attached_stores(p_tenant, p_session) loop
        select string_agg(case when f.so_far <= v_left then escaped(format(E'/memories/%s%s:\n%s', store.name, f.path, f.content))
                               else escaped(format('/memories/%s%s (%s bytes)', store.name, f.path, f.content_bytes)) end,
                          E'\n' order by f.path collate "C"),
               max(f.so_far) filter (where f.so_far <= v_left), count(*)
          into v_files, v_shown, v_count
          from (select m.path, m.content, m.content_bytes, sum(m.content_bytes) over (order by m.path collate "C") as so_far
                  from memories m where m.tenant_id = p_tenant and m.store_id = store.id
                 order by m.path collate "C" limit 100) as f;
        v_left := v_left - coalesce(v_shown, 0);
        if v_count = 100 then
            v_files := v_files || E'\nThere may be more: view the directory.';
        end if;
        v_texts := v_texts || concat_ws(E'\n',
            format('<memory store="%s" directory="/memories/%s" access="%s">', store.name, store.name,
                   case when store.writable then 'read_write' else 'read_only' end),
            nullif(escaped(store.description), ''), nullif(escaped(store.instructions), ''), coalesce(v_files, 'It is empty.'),
            '</memory>');
    end loop;
    return array_to_string(v_texts, E'\n');
end
$$;

-- A text that cannot be taken for the end of what it stands in.
create function trunkline.escaped(p_text text) returns text
    language sql immutable
    set search_path = trunkline, pg_temp
as $$ select replace(replace(p_text, '<', '\u003c'), '>', '\u003e') $$;

-- As before, and after the blocks the stores attached to the session, in a budget of the same size.
alter function trunkline.rendered_blocks(uuid, uuid, int, text, uuid) rename to rendered_declared;
create function trunkline.rendered_blocks(p_tenant uuid, p_agent uuid, p_version int, p_user text, p_session uuid) returns text
    language plpgsql stable
    set search_path = trunkline, pg_temp
as $$
declare
    v_blocks text := rendered_declared(p_tenant, p_agent, p_version, p_user, p_session);
begin
    if p_session is null
       or not exists (select from sessions s where s.tenant_id = p_tenant and s.id = p_session and s.resources <> '[]') then
        return v_blocks;
    end if;
    return nullif(concat_ws(E'\n', nullif(v_blocks, ''), nullif(rendered_stores(p_tenant, p_session,
        (select v.memory_budget from agent_versions v
          where v.tenant_id = p_tenant and v.agent_id = p_agent and v.version = p_version and v.memory_enabled)), '')), '');
end
$$;

-- A fork goes on with what is attached to the session that it parts from.
create function trunkline.fork_resources() returns trigger
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
begin
    select s.resources into new.resources from sessions s where s.tenant_id = new.tenant_id and s.id = new.parent_id;
    new.resources := coalesce(new.resources, '[]');
    return new;
end
$$;
create trigger fork_resources before insert on trunkline.sessions
    for each row when (new.parent_id is not null and new.resources = '[]') execute function trunkline.fork_resources();

revoke execute on function trunkline.attached_stores(uuid, uuid), trunkline.rendered_stores(uuid, uuid, int),
    trunkline.escaped(text), trunkline.rendered_blocks(uuid, uuid, int, text, uuid), trunkline.fork_resources() from public;
grant execute on function trunkline.attached_stores(uuid, uuid), trunkline.rendered_stores(uuid, uuid, int),
    trunkline.escaped(text), trunkline.rendered_blocks(uuid, uuid, int, text, uuid) to trunkline_control;

-- As before, and the only end user that the key speaks for.
drop function trunkline.authenticate_key(bytea);
create function trunkline.authenticate_key(p_hash bytea)
    returns table (tenant_id uuid, key_id uuid, name text, scopes text[], agent_id uuid, models text[], user_id text)
    language sql stable security definer
    set search_path = trunkline, pg_temp
as $$
    select k.tenant_id, k.id, k.name, k.scopes, k.agent_id, k.models, k.user_id
      from api_keys k
     where k.hash = p_hash and k.revoked_at is null and (k.expires_at is null or k.expires_at > now())
$$;
revoke execute on function trunkline.authenticate_key(bytea) from public;
grant execute on function trunkline.authenticate_key(bytea) to trunkline_control;
