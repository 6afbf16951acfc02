-- What prompts begin with is mostly the same for all sessions of a user: it is kept once for each text, and sessions name its hash.

set local role trunkline_owner;

-- Said by a gateway with the first session that begins so, and again about once an hour. One that is gone is no loss: whoever asks for
-- it has the blocks rendered anew.
create table trunkline.prompt_prefixes (
    tenant_id uuid        not null references trunkline.tenants (id) on delete cascade,
    agent_id  uuid        not null,
    user_id   text        not null,                  -- '': of no user
    hash      bytea       not null,                  -- the first 16 bytes of SHA-256
    prefix    text        not null,
    said_at   timestamptz not null default now(),
    primary key (tenant_id, agent_id, user_id, hash)
);
alter table trunkline.prompt_prefixes enable row level security;
alter table trunkline.prompt_prefixes force row level security;
create policy one_tenant on trunkline.prompt_prefixes to trunkline_control
    using (tenant_id = trunkline.current_tenant()) with check (tenant_id = trunkline.current_tenant());
create policy owner on trunkline.prompt_prefixes to trunkline_owner using (true) with check (true);

-- A session has a text of its own where it has blocks of its own, or stores attached.
alter table trunkline.session_prompts
    alter column prefix drop not null,
    add column hash bytea,
    add check ((prefix is null) <> (hash is null));

create or replace function trunkline.prompt_forked() returns trigger
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
begin
    insert into session_prompts (tenant_id, session_id, agent_version, prefix, hash, deltas, used_at)
    select p.tenant_id, new.id, p.agent_version, p.prefix, p.hash, p.deltas, p.used_at
      from session_prompts p where p.tenant_id = new.tenant_id and p.session_id = new.parent_id
    on conflict do nothing;
    return null;
end
$$;

create trigger prompts_deleted after delete on trunkline.prompt_prefixes referencing old table as gone
    for each statement execute function trunkline.prompts_deleted();

-- Whoever erases a user deletes the user's sessions.
create function trunkline.prefixes_of_sessions() returns trigger
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
begin
    delete from prompt_prefixes p
     using (select distinct g.tenant_id, g.agent_id, coalesce(g.user_id, '') as user_id from gone g) as owner
     where p.tenant_id = owner.tenant_id and p.agent_id = owner.agent_id and p.user_id = owner.user_id;
    return null;
end
$$;
create trigger prefixes_of_sessions after delete on trunkline.sessions referencing old table as gone
    for each statement execute function trunkline.prefixes_of_sessions();

-- As before, and the texts that sessions share. What is of one session alone is in none of these.
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
            or s.id in (select o.id from unnest(p_stores) as store (id)
                          join sessions o on o.tenant_id = p_tenant and o.resources <> '[]'
                           and o.resources @> jsonb_build_array(jsonb_build_object(
                                   'memory_store_id', 'memstore_' || replace(store.id::text, '-', '')))))
$$;

create or replace function trunkline.expire_prompts(p_limit int) returns bigint
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
    ), unsaid as (
        delete from prompt_prefixes p
         using (select o.tenant_id, o.agent_id, o.user_id, o.hash
                  from prompt_prefixes o where o.said_at < now() - interval '1 day' limit p_limit) as past
         where p.tenant_id = past.tenant_id and p.agent_id = past.agent_id and p.user_id = past.user_id and p.hash = past.hash
        returning 1
    )
    select greatest((select count(*) from gone), (select count(*) from unsaid))
$$;

-- Keep what prompts begin with, of each call: {session, fork, version, and where it is new: hash (of a text that is shared), prefix (the
-- text; none where it was said before), deltas (none: there are none), used (by a worker)}. Where the turn became a fork, it is the fork's.
create or replace function trunkline.keep_prompts(p_calls trunkline.call_row[]) returns void
    language sql
    set search_path = trunkline, pg_temp
    set enable_hashjoin = off
    set enable_mergejoin = off
    set enable_seqscan = off
as $$
    -- In one order, so that two gateways that say the same do not wait for each other in a circle.
    insert into prompt_prefixes (tenant_id, agent_id, user_id, hash, prefix)
    select distinct on (1, 2, 3, 4)
           c.tenant, c.agent, coalesce(c.user_id, ''), decode(c.prompt ->> 'hash', 'hex'), c.prompt ->> 'prefix'
      from unnest(p_calls) as c
     where c.prompt ? 'hash' and c.prompt ? 'prefix'
     order by 1, 2, 3, 4
    on conflict (tenant_id, agent_id, user_id, hash) do update set said_at = now();

    with said as (
        select c.ordinality as nth, c.tenant, coalesce(f.id, (c.prompt ->> 'session')::uuid) as session, c.prompt,
               case when (c.prompt ->> 'used')::boolean then c.at end as used_at
          from unnest(p_calls) with ordinality as c
          left join sessions f on f.tenant_id = c.tenant and f.id = (c.prompt ->> 'fork')::uuid
         where c.prompt is not null
    ), prompts as materialized (
        select n.tenant, n.session, n.used_at, (n.newest ->> 'version')::int as version,
               coalesce(n.newest -> 'deltas', '[]') as deltas, n.whole is not null as new, decode(n.whole ->> 'hash', 'hex') as hash,
               case when not n.whole ? 'hash' then n.whole ->> 'prefix' end as prefix
          from (select tenant, session, max(used_at) as used_at, (array_agg(prompt order by nth desc))[1] as newest,
                       (array_agg(prompt order by nth desc) filter (where prompt ?| '{hash,prefix}'))[1] as whole
                  from said group by tenant, session) as n
    ), moved as (
        update session_prompts p
           set agent_version = n.version, deltas = n.deltas, used_at = coalesce(n.used_at, p.used_at),
               hash = case when n.new then n.hash else p.hash end, prefix = case when n.new then n.prefix else p.prefix end
          from prompts n where p.tenant_id = n.tenant and p.session_id = n.session
    )
    insert into session_prompts (tenant_id, session_id, agent_version, prefix, hash, deltas, used_at)
    select n.tenant, n.session, n.version, n.prefix, n.hash, n.deltas, n.used_at
      from prompts n join sessions s on s.tenant_id = n.tenant and s.id = n.session
     where n.new
    on conflict (tenant_id, session_id) do nothing
$$;

-- As before, with the text that the session shares.
create or replace function trunkline.gateway_context(p_tenant uuid, p_agent uuid, p_version int, p_user text, p_session uuid,
                                          p_chain bytea, p_query text, p_recall_tokens int, p_prompt boolean default false)
    returns table (session_id uuid, known boolean, at_head boolean, refused boolean, head bytea, blocks text, recall text,
                   prefix text, deltas text, prompt_version int, idle float8)
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
    if p_prompt and session_id is not null then
        select coalesce(p.prefix, t.prefix), p.deltas::text, p.agent_version,
               extract(epoch from clock_timestamp() - coalesce(p.used_at, s.updated_at))::float8
          into prefix, deltas, prompt_version, idle
          from session_prompts p join sessions s on s.tenant_id = p.tenant_id and s.id = p.session_id
          left join prompt_prefixes t on t.tenant_id = s.tenant_id and t.agent_id = s.agent_id
                                     and t.user_id = coalesce(s.user_id, '') and t.hash = p.hash
         where p.tenant_id = p_tenant and p.session_id = gateway_context.session_id;
    end if;

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

revoke execute on function trunkline.prefixes_of_sessions() from public;
