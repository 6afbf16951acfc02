-- Stores attached to an agent: its sessions have them beside their own, and all of them are looked into when a call recalls.

set local role trunkline_owner;

alter table trunkline.agent_versions add column stores jsonb not null default '[]';  -- in the form of a session's resources

-- Whether a session (null: none yet) of an agent in a version has stores attached, its own or the agent's.
create function trunkline.has_stores(p_tenant uuid, p_agent uuid, p_version int, p_session uuid) returns boolean
    language sql stable
    set search_path = trunkline, pg_temp
as $$
    select exists (select from agent_versions v
                    where v.tenant_id = p_tenant and v.agent_id = p_agent and v.version = p_version and v.stores <> '[]')
        or p_session is not null
       and exists (select from sessions s where s.tenant_id = p_tenant and s.id = p_session and s.resources <> '[]')
$$;

-- As before, and after them those of the agent in this version, in their order. What the session says of a store counts.
drop function trunkline.attached_stores(uuid, uuid);
create function trunkline.attached_stores(p_tenant uuid, p_agent uuid, p_version int, p_session uuid)
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
              from (select s.resource, s.nth from sessions o
                     cross join jsonb_array_elements(o.resources) with ordinality as s (resource, nth)
                     where o.tenant_id = p_tenant and o.id = p_session and s.resource ->> 'type' = 'memory_store'
                     union all
                    select v.resource, 1000 + v.nth from agent_versions w
                     cross join jsonb_array_elements(w.stores) with ordinality as v (resource, nth)
                     where w.tenant_id = p_tenant and w.agent_id = p_agent and w.version = p_version
                       and not exists (select from sessions o
                                        where o.tenant_id = p_tenant and o.id = p_session
                                          and o.resources @> jsonb_build_array(jsonb_build_object(
                                                  'memory_store_id', v.resource ->> 'memory_store_id')))) as r
              join memory_stores m on m.tenant_id = p_tenant and m.id = substr(r.resource ->> 'memory_store_id', 10)::uuid) as a
     order by a.nth
$$;

-- As before, of the session's stores and the agent's.
drop function trunkline.rendered_stores(uuid, uuid, int);
create function trunkline.rendered_stores(p_tenant uuid, p_agent uuid, p_version int, p_session uuid, p_budget int) returns text
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
    for store in select * from attached_stores(p_tenant, p_agent, p_version, p_session) loop
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

-- As before, where either has any.
create or replace function trunkline.rendered_blocks(p_tenant uuid, p_agent uuid, p_version int, p_user text, p_session uuid) returns text
    language plpgsql stable
    set search_path = trunkline, pg_temp
as $$
declare
    v_blocks text := rendered_declared(p_tenant, p_agent, p_version, p_user, p_session);
begin
    if not has_stores(p_tenant, p_agent, p_version, p_session) then
        return v_blocks;
    end if;
    return nullif(concat_ws(E'\n', nullif(v_blocks, ''), nullif(rendered_stores(p_tenant, p_agent, p_version, p_session,
        (select v.memory_budget from agent_versions v
          where v.tenant_id = p_tenant and v.agent_id = p_agent and v.version = p_version and v.memory_enabled)), '')), '');
end
$$;

-- As before, and of the sessions of agents that have one of these stores.
create or replace function trunkline.forget_prompts(p_tenant uuid, p_stores uuid[]) returns void
    language sql
    set search_path = trunkline, pg_temp
as $$
    delete from prompt_prefixes p
     where p.tenant_id = p_tenant
       and exists (select from memory_stores m
                    where m.tenant_id = p_tenant and m.id = any (p_stores) and m.managed
                      and case m.scope when 'user' then p.user_id = m.subject when 'session' then false else true end);
    delete from session_prompts p
     using sessions s
     where p.tenant_id = p_tenant and s.tenant_id = p_tenant and s.id = p.session_id
       and (exists (select from memory_stores m
                     where m.tenant_id = p_tenant and m.id = any (p_stores) and m.managed
                       and case m.scope when 'user' then s.user_id = m.subject
                                        when 'session' then s.id::text = m.subject
                                        else true end)
            or s.agent_id in (select v.agent_id from unnest(p_stores) as store (id)
                                join agent_versions v on v.tenant_id = p_tenant and v.stores <> '[]'
                                 and v.stores @> jsonb_build_array(jsonb_build_object(
                                         'memory_store_id', 'memstore_' || replace(store.id::text, '-', ''))))
            or s.id in (select o.id from unnest(p_stores) as store (id)
                          join sessions o on o.tenant_id = p_tenant and o.resources <> '[]'
                           and o.resources @> jsonb_build_array(jsonb_build_object(
                                   'memory_store_id', 'memstore_' || replace(store.id::text, '-', '')))))
$$;

-- Whether a store is attached to an agent or its sessions to be read, and nowhere there to be written.
create or replace function trunkline.attached_for_reading(p_tenant uuid, p_agent uuid, p_store uuid) returns boolean
    language sql stable security definer
    set search_path = trunkline, pg_temp
as $$
    select coalesce(bool_and(r.resource ->> 'access' = 'read_only'), false)
      from (select s.resources from sessions s
             where s.tenant_id = p_tenant and s.agent_id = p_agent and s.archived_at is null
               and s.resources @> jsonb_build_array(jsonb_build_object('memory_store_id', 'memstore_' || replace(p_store::text, '-', '')))
             union all
            select v.stores from agents a
              join agent_versions v on v.tenant_id = a.tenant_id and v.agent_id = a.id and v.version = a.current_version
             where a.tenant_id = p_tenant and a.id = p_agent) as attached (resources)
     cross join jsonb_array_elements(attached.resources) as r (resource)
     where p_tenant = current_tenant() and r.resource ->> 'memory_store_id' = 'memstore_' || replace(p_store::text, '-', '')
$$;

-- `- [2026-11-20 user] what was said`, in one line; nothing in it can be taken for the end of what it stands in.
create function trunkline.recalled_line(p_at timestamptz, p_by text, p_content text) returns text
    language sql stable
return format('- [%s] %s', concat_ws(' ', to_char(p_at at time zone 'UTC', 'YYYY-MM-DD'), p_by),
              replace(replace(regexp_replace(p_content, '\s+', ' ', 'g'), '<', '\u003c'), '>', '\u003e'));

-- What a call of an agent in a version recalls, each passage a line: of the user's turns (null: none) and of the stores that
-- are attached, within one budget of tokens. `hybrid`: the embedding was of use; it is not in stores that are searched by
-- another model. `model`: by which the first of the stores is searched.
-- A passage's score tells how it stands among those of its store. So that a store with nothing to say takes no room from others, its
-- scores count by how much of the query the best three of its passages have: the share of the words, rare ones for more, and
-- a quarter at least, for what was found by meaning alone.
create function trunkline.recalled(
    p_tenant uuid, p_agent uuid, p_version int, p_user text, p_session uuid, p_query text, p_tokens int,
    p_embedding real[] default null, p_embedder text default null, out recall text, out hybrid boolean, out model text)
    language plpgsql stable
    set search_path = trunkline, pg_temp
as $$
declare
    v_own    uuid;
    v_ids    uuid[];
    v_names  text[];
    v_vector boolean[];                    -- whether a store is searched by the embedding
begin
    hybrid := false;
    if p_user is not null then
        select s.id into v_own from memory_stores s
         where s.tenant_id = p_tenant and s.managed and s.owner_key = 'user ' || p_agent::text || ' ' || p_user;
    end if;
    if has_stores(p_tenant, p_agent, p_version, p_session) then
        select array_agg(a.id order by a.nth), array_agg(a.name order by a.nth) into v_ids, v_names
          from attached_stores(p_tenant, p_agent, p_version, p_session) as a where a.id is distinct from v_own;
    end if;
    if v_own is not null then
        v_ids := v_own || v_ids;
        v_names := ''::text || v_names;
    end if;
    if v_ids is null then
        return;
    end if;
    if p_embedder is not null then
        select array_agg(m.embedding_model = p_embedder
                         and exists (select from embedding_sets e
                                      where e.tenant_id = p_tenant and e.store_id = m.id and e.model = p_embedder
                                        and e.dimension = cardinality(p_embedding)) order by w.nth),
               (array_agg(m.embedding_model order by w.nth) filter (where m.embedding_model is not null))[1]
          into v_vector, model
          from unnest(v_ids) with ordinality as w (id, nth)
          join memory_stores m on m.tenant_id = p_tenant and m.id = w.id;
        hybrid := coalesce(true = any (v_vector), false);
    end if;

    if cardinality(v_ids) = 1 and v_own is not null then
        select string_agg(recalled_line(r.created_at, r.role, r.content), E'\n' order by r.created_at, r.passage_id) into recall
          from recall(p_tenant, v_own, p_query, 20, p_tokens, p_session, case when hybrid then p_embedding::halfvec end,
                      case when hybrid then p_embedder end) as r;
        return;
    end if;

    with looked as materialized (
        select w.nth, w.id, w.name, coalesce(w.by_vector, false) as by_vector, m.language
          from unnest(v_ids, v_names, v_vector) with ordinality as w (id, name, by_vector, nth)
          join memory_stores m on m.tenant_id = p_tenant and m.id = w.id
    ), found as materialized (
        select l.nth, l.name, r.passage_id, r.role, r.content, r.tokens, r.created_at, r.score,
               row_number() over (partition by l.nth order by r.score desc, r.passage_id) as place
          from looked l
         cross join lateral recall(p_tenant, l.id, p_query, 20, p_tokens, p_session,
                                   case when l.by_vector then p_embedding::halfvec end,
                                   case when l.by_vector then p_embedder end) as r
    ), words as materialized (
        select l.nth, l.id, w.word from looked l
         cross join lateral unnest(tsvector_to_array(to_tsvector(l.language::regconfig, left(p_query, 2000)))) as w (word)
    ), counted as (
        select w.word, sum(coalesce((select sum(cardinality(p.places)) from passage_postings p
                                      where p.tenant_id = p_tenant and p.store_id = w.id and p.word = w.word), 0)
                           + (select count(*) from passage_tail t
                                join passages p on p.tenant_id = t.tenant_id and p.store_id = t.store_id and p.place = t.place
                               where t.tenant_id = p_tenant and t.store_id = w.id
                                 and p.terms @@ quote_literal(w.word)::tsquery)) as passages
          from words w group by w.word
    ), weighed as materialized (
        select w.nth, w.word, 1 / ln(2.7 + c.passages::float8) as weight from words w join counted c on c.word = w.word
    ), covered as (
        select f.nth, f.place, sum(w.weight) filter (where p.terms @@ quote_literal(w.word)::tsquery) / sum(w.weight) as share
          from found f
          join looked l on l.nth = f.nth
          join passages p on p.tenant_id = p_tenant and p.store_id = l.id and p.id = f.passage_id
          join weighed w on w.nth = f.nth
         where f.place <= 3
         group by f.nth, f.place
    ), ranked as (
        select f.*, sum(f.tokens) over (order by f.score * greatest(s.share, 0.25) desc, f.nth, f.place) as spent,
               row_number() over (order by f.score * greatest(s.share, 0.25) desc, f.nth, f.place) as rank
          from found f
          left join (select c.nth, max(c.share) as share from covered c group by c.nth) as s on s.nth = f.nth
    )
    select string_agg(case when r.name = '' then recalled_line(r.created_at, r.role, r.content)
                           else recalled_line(null, r.name, r.content) end,
                      E'\n' order by r.nth, r.created_at, r.passage_id) into recall
      from ranked r where r.spent <= p_tokens and r.rank <= 20;
end
$$;

-- As before, and of the stores attached.
create or replace function trunkline.gateway_context(p_tenant uuid, p_agent uuid, p_version int, p_user text, p_session uuid,
                                          p_chain bytea, p_query text, p_recall_tokens int, p_prompt boolean default false)
    returns table (session_id uuid, known boolean, at_head boolean, refused boolean, head bytea, blocks text, recall text,
                   prefix text, deltas text, prompt_version int, idle float8)
    language plpgsql stable security definer
    set search_path = trunkline, pg_temp
as $$
declare
    log sessions;
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
    if p_prompt and session_id is not null then
        select coalesce(p.prefix, t.prefix), p.deltas::text, p.agent_version,
               extract(epoch from clock_timestamp() - coalesce(p.used_at, s.updated_at))::float8
          into prefix, deltas, prompt_version, idle
          from session_prompts p join sessions s on s.tenant_id = p.tenant_id and s.id = p.session_id
          left join prompt_prefixes t on t.tenant_id = s.tenant_id and t.agent_id = s.agent_id
                                     and t.user_id = coalesce(s.user_id, '') and t.hash = p.hash
         where p.tenant_id = p_tenant and p.session_id = gateway_context.session_id;
    end if;

    if p_recall_tokens > 0 and p_query is not null then
        recall := (recalled(p_tenant, p_agent, p_version, p_user, session_id, p_query, p_recall_tokens)).recall;
    end if;
    return next;
end
$$;

-- As `recalled`, for the gateway; without a version, in the agent's current one.
drop function trunkline.gateway_recall(uuid, uuid, text, text, int, uuid, real[], text);
create function trunkline.gateway_recall(p_tenant uuid, p_agent uuid, p_user text, p_query text, p_tokens int, p_session uuid,
                                         p_embedding real[], p_model text, p_version int default null)
    returns table (recall text, hybrid boolean, model text)
    language sql stable security definer
    set search_path = trunkline, pg_temp
as $$
    select r.recall, r.hybrid, r.model
      from recalled(p_tenant, p_agent,
                    coalesce(p_version, (select a.current_version from agents a where a.tenant_id = p_tenant and a.id = p_agent)),
                    p_user, p_session, p_query, p_tokens, p_embedding, p_model) as r
$$;

-- pgvector's types are where the extension was put.
do $$
begin
    execute (select format('alter function trunkline.recalled set search_path = trunkline, %I, pg_temp', n.nspname)
               from pg_extension e join pg_namespace n on n.oid = e.extnamespace where e.extname = 'vector');
end
$$;

-- As before; whether stores are attached to an agent.
create or replace function trunkline.gateway_snapshot() returns jsonb
    language plpgsql stable security definer
    set search_path = trunkline, pg_temp
as $$
declare
    revision bigint := gateway_revision();
begin
    return jsonb_build_object(
        'revision', revision,
        'keys', (select coalesce(jsonb_agg(jsonb_build_object(
                     'hash', encode(k.hash, 'hex'), 'tenant', k.tenant_id, 'id', coalesce(p.id, k.id),
                     'name', coalesce(p.name, k.name), 'scopes', k.scopes,
                     'agent', k.agent_id, 'team', coalesce(p.team_id, k.team_id), 'user', k.user_id,
                     'models', coalesce(p.models, k.models),
                     'store_bodies', coalesce(p.store_bodies, k.store_bodies),
                     'expires_at', extract(epoch from least(k.expires_at, p.expires_at))::float8, 'limits', limits_json(l),
                     'limits_users', u.kind is not null)), '[]')
                   from api_keys k
                   left join api_keys p on p.tenant_id = k.tenant_id and p.id = k.for_key
                   left join limits l on l.tenant_id = k.tenant_id and l.kind = 'key'
                                     and l.subject = coalesce(p.id, k.id)::text
                   left join limits u on u.tenant_id = k.tenant_id and u.kind = 'users_of_key'
                                     and u.subject = coalesce(p.id, k.id)::text
                  where k.revoked_at is null and (k.expires_at is null or k.expires_at > now())
                    and p.revoked_at is null and (p.expires_at is null or p.expires_at > now())),
        'teams', (select coalesce(jsonb_agg(jsonb_build_object(
                     'tenant', t.tenant_id, 'id', t.id, 'name', t.name, 'limits', limits_json(l),
                     'limits_users', u.kind is not null)), '[]')
                   from teams t
                   left join limits l on l.tenant_id = t.tenant_id and l.kind = 'team' and l.subject = t.id::text
                   left join limits u on u.tenant_id = t.tenant_id and u.kind = 'users_of_team' and u.subject = t.id::text
                  where t.archived_at is null),
        'tenants_with_user_limits', (select coalesce(jsonb_agg(t.id), '[]') from tenants t
                  where exists (select from limits l where l.tenant_id = t.id and l.kind = 'user')),
        'agents', (select coalesce(jsonb_agg(jsonb_build_object(
                     'tenant', a.tenant_id, 'id', a.id, 'name', a.name, 'version', v.version, 'model', v.model,
                     'instructions', v.instructions, 'memory_enabled', v.memory_enabled,
                     'memory_refresh', v.memory_refresh, 'memory_fail', v.memory_fail,
                     'recall_tokens', v.recall_tokens, 'memory_tools', v.memory_tools,
                     'prompt_cache', case when v.memory_enabled and v.prompt_cache_ttl is not null then jsonb_build_object(
                         'ttl_seconds', v.prompt_cache_ttl, 'delta_tokens', v.memory_budget / 2,
                         'cache_control', v.cache_control) end,
                     'context', case when v.context_tokens is not null then jsonb_build_object(
                         'tokens', v.context_tokens, 'turns', v.context_turns) end,
                     'redact', case when v.redact is not null then
                         jsonb_build_object('detect', v.redact, 'log', v.redact_log) end,
                     'has_stores', v.memory_enabled and v.stores <> '[]', 'has_blocks', b.count > 0, 'has_session_blocks', b.of_sessions > 0)), '[]')
                   from agents a
                   join agent_versions v on v.tenant_id = a.tenant_id and v.agent_id = a.id and v.version = a.current_version
                  cross join lateral (select count(*) as count, count(*) filter (where scope = 'session') as of_sessions
                                        from agent_blocks b where b.tenant_id = a.tenant_id and b.agent_id = a.id
                                         and b.version = v.version) as b
                  where a.archived_at is null));
end
$$;

-- The same of an agent in one version.
create or replace function trunkline.gateway_agent(p_tenant uuid, p_agent uuid, p_version int) returns jsonb
    language sql stable security definer
    set search_path = trunkline, pg_temp
as $$
    select jsonb_build_object(
               'tenant', a.tenant_id, 'id', a.id, 'name', a.name, 'version', v.version, 'model', v.model,
               'instructions', v.instructions, 'memory_enabled', v.memory_enabled,
               'memory_refresh', v.memory_refresh, 'memory_fail', v.memory_fail,
               'recall_tokens', v.recall_tokens, 'memory_tools', v.memory_tools,
               'prompt_cache', case when v.memory_enabled and v.prompt_cache_ttl is not null then jsonb_build_object(
                   'ttl_seconds', v.prompt_cache_ttl, 'delta_tokens', v.memory_budget / 2,
                   'cache_control', v.cache_control) end,
               'context', case when v.context_tokens is not null then jsonb_build_object(
                   'tokens', v.context_tokens, 'turns', v.context_turns) end,
               'redact', case when now.redact is not null then
                   jsonb_build_object('detect', now.redact, 'log', now.redact_log) end,
               'has_stores', v.memory_enabled and v.stores <> '[]', 'has_blocks', b.count > 0, 'has_session_blocks', b.of_sessions > 0)
      from agents a
      join agent_versions v on v.tenant_id = a.tenant_id and v.agent_id = a.id and v.version = p_version
      join agent_versions now on now.tenant_id = a.tenant_id and now.agent_id = a.id and now.version = a.current_version
     cross join lateral (select count(*) as count, count(*) filter (where scope = 'session') as of_sessions
                           from agent_blocks b where b.tenant_id = a.tenant_id and b.agent_id = a.id
                            and b.version = v.version) as b
     where a.tenant_id = p_tenant and a.id = p_agent
$$;

revoke execute on function trunkline.has_stores(uuid, uuid, int, uuid), trunkline.attached_stores(uuid, uuid, int, uuid),
    trunkline.rendered_stores(uuid, uuid, int, uuid, int), trunkline.recalled_line(timestamptz, text, text),
    trunkline.recalled(uuid, uuid, int, text, uuid, text, int, real[], text),
    trunkline.gateway_recall(uuid, uuid, text, text, int, uuid, real[], text, int) from public;
grant execute on function trunkline.has_stores(uuid, uuid, int, uuid), trunkline.attached_stores(uuid, uuid, int, uuid),
    trunkline.rendered_stores(uuid, uuid, int, uuid, int) to trunkline_control;
grant execute on function trunkline.gateway_recall(uuid, uuid, text, text, int, uuid, real[], text, int) to trunkline_gateway;
