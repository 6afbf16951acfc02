-- What the gateway may do, all of it: these functions are its only rights.

set local role trunkline_owner;

create function trunkline.gateway_revision() returns bigint
    language sql stable security definer
    set search_path = trunkline, pg_temp
as $$ select revision from configuration $$;

-- Everything that authenticate, admit and resolve need. The revision is read first: what changes meanwhile is read again later.
create function trunkline.gateway_snapshot() returns jsonb
    language plpgsql stable security definer
    set search_path = trunkline, pg_temp
as $$
declare
    revision bigint := gateway_revision();
begin
    return jsonb_build_object(
        'revision', revision,
        'keys', (select coalesce(jsonb_agg(jsonb_build_object(
                     'hash', encode(k.hash, 'hex'), 'tenant', k.tenant_id, 'id', k.id, 'scopes', k.scopes,
                     'agent', k.agent_id, 'models', k.models, 'budget_usd', k.budget_usd::float8,
                     'spent_usd', coalesce(s.usd, 0)::float8, 'rpm', k.rpm,
                     'expires_at', extract(epoch from k.expires_at)::float8)), '[]')
                   from api_keys k left join key_spend s on s.tenant_id = k.tenant_id and s.key_id = k.id
                  where k.revoked_at is null and (k.expires_at is null or k.expires_at > now())),
        'agents', (select coalesce(jsonb_agg(jsonb_build_object(
                     'tenant', a.tenant_id, 'id', a.id, 'name', a.name, 'version', v.version, 'model', v.model,
                     'instructions', v.instructions, 'memory_enabled', v.memory_enabled,
                     'memory_refresh', v.memory_refresh, 'memory_fail', v.memory_fail,
                     'recall_tokens', v.recall_tokens, 'memory_tools', v.memory_tools,
                     'has_blocks', b.count > 0, 'has_session_blocks', b.of_sessions > 0)), '[]')
                   from agents a
                   join agent_versions v on v.tenant_id = a.tenant_id and v.agent_id = a.id and v.version = a.current_version
                  cross join lateral (select count(*) as count, count(*) filter (where scope = 'session') as of_sessions
                                        from agent_blocks b where b.tenant_id = a.tenant_id and b.agent_id = a.id
                                         and b.version = v.version) as b
                  where a.archived_at is null));
end
$$;

create function trunkline.gateway_prices() returns jsonb
    language sql stable security definer
    set search_path = trunkline, pg_temp
as $$
    select coalesce(jsonb_agg(jsonb_build_array(provider, model, input_usd_per_mtok::float8, output_usd_per_mtok::float8,
                                                cache_read_usd_per_mtok::float8, cache_write_usd_per_mtok::float8)), '[]')
      from model_prices
$$;

-- What one call needs: which session it goes on with, the rendered blocks, and the passages that match.
-- `p_session` null: found by `p_chain`, the hash of the history that the client sent (null: it sent none).
-- `known` tells whether the session is in the store; `at_head`, whether its log ends where the client's history does;
-- `head`, where it ends if that is elsewhere.
-- A session of another agent or user is not found: `refused`.
create function trunkline.gateway_context(p_tenant uuid, p_agent uuid, p_version int, p_user text, p_session uuid,
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

    select string_agg(coalesce(m.rendered, b.empty_rendered), E'\n' order by b.position) into blocks
      from agent_blocks b
      left join memory_stores s on s.tenant_id = p_tenant and s.managed and s.owner_key =
           case b.scope when 'org' then 'org'
                        when 'agent' then 'agent ' || p_agent::text
                        when 'user' then 'user ' || p_agent::text || ' ' || p_user
                        else 'session ' || session_id::text end
      left join memories m on m.tenant_id = p_tenant and m.store_id = s.id and m.path = '/blocks/' || b.name
     where b.tenant_id = p_tenant and b.agent_id = p_agent and b.version = p_version
       and (b.scope <> 'user' or p_user is not null);

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

-- Append one turn to its session. Messages that the log already holds are recognised by their chain; a history that
-- parts from the log's becomes a fork with the common part copied, and goes on in that fork. `forks`: the client was told
-- the fork's id, so that it must come to be, even where the model said the same again.
create function trunkline.record_turn(p_tenant uuid, p_call uuid, p_at timestamptz, p_turn jsonb) returns uuid
    language plpgsql
    set search_path = trunkline, pg_temp
as $$
declare
    log       sessions;
    messages  jsonb := p_turn -> 'messages';
    prefix    bytea := decode(p_turn ->> 'prefix', 'hex');
    first     int := 0;                    -- index of the first message to append
    anchor    record;
    count     int := jsonb_array_length(messages);
    added     int;
    store     uuid;
    v_user    text := p_turn ->> 'user';
    v_agent   uuid := (p_turn ->> 'agent')::uuid;
    v_owner   text;
    v_session uuid := (p_turn ->> 'session')::uuid;
    v_forks   boolean := coalesce((p_turn ->> 'forks')::boolean, false);
begin
    if not exists (select from agent_versions v where v.tenant_id = p_tenant and v.agent_id = v_agent
                      and v.version = (p_turn ->> 'agent_version')::int) then
        return null;                       -- the agent was erased meanwhile: nothing of it is kept
    end if;
    select s.* into log from sessions s where s.tenant_id = p_tenant and s.id = v_session for update;
    if found and (log.agent_id <> v_agent or log.user_id is distinct from v_user) then
        v_session := (p_turn ->> 'fork')::uuid; -- named while the store was away, and another's: a session of its own
        select s.* into log from sessions s where s.tenant_id = p_tenant and s.id = v_session for update;
    end if;
    if not found and prefix is not null then
        select s.* into log from sessions s -- the gateway took it for another than it became
         where s.tenant_id = p_tenant and s.agent_id = v_agent and s.head_chain = prefix and s.user_id is not distinct from v_user
         order by s.updated_at desc limit 1 for update;
    end if;
    if log.id is null then
        v_session := case when v_forks then (p_turn ->> 'fork')::uuid else v_session end;
        insert into sessions (tenant_id, id, agent_id, agent_version, user_id, origin, status, root_id, created_at, updated_at)
        values (p_tenant, v_session, v_agent, (p_turn ->> 'agent_version')::int, v_user,
                'gateway', 'idle', v_session, p_at, p_at)
        returning * into log;
    elsif v_forks or log.head_chain is distinct from prefix then
        -- The deepest point that the client's history shares with the log or one of its forks; best where that ends there.
        select s.id, e.seq, e.chain, o.nth into anchor
          from (select prefix as chain, 0 as nth where prefix is not null
                 union all
                select decode(m.value ->> 'chain', 'hex'), m.ordinality::int
                  from jsonb_array_elements(messages) with ordinality as m
                 where not v_forks or m.ordinality < count) as o
          join sessions s on s.tenant_id = p_tenant and s.root_id = log.root_id and s.agent_id = v_agent
                         and s.user_id is not distinct from v_user
          join events e on e.tenant_id = p_tenant and e.session_id = s.id and e.chain = o.chain
         order by o.nth desc, e.chain is not distinct from s.head_chain desc, s.id = log.id desc, e.seq desc
         limit 1;
        if found then
            first := anchor.nth;
            if anchor.id <> log.id then
                select s.* into log from sessions s where s.tenant_id = p_tenant and s.id = anchor.id for update;
            end if;
        end if;
        if v_forks or anchor.seq is null or anchor.chain is distinct from log.head_chain then
            insert into sessions (tenant_id, id, agent_id, agent_version, user_id, title, metadata, origin, status, last_seq,
                                  head_chain, root_id, parent_id, parent_seq, created_at, updated_at)
            values (p_tenant, (p_turn ->> 'fork')::uuid, v_agent, (p_turn ->> 'agent_version')::int, v_user, log.title,
                    log.metadata, 'gateway', 'idle', coalesce(anchor.seq, 0), anchor.chain, log.root_id, log.id,
                    coalesce(anchor.seq, 0), p_at, p_at);
            -- The copies keep their times, and take ids from their place: an event's id is unique within its tenant.
            insert into events (tenant_id, session_id, seq, id, type, payload, chain, call_id, created_at, processed_at)
            select p_tenant, (p_turn ->> 'fork')::uuid, e.seq, gen_random_uuid(), e.type, e.payload, e.chain, e.call_id,
                   e.created_at, e.processed_at
              from events e where e.tenant_id = p_tenant and e.session_id = log.id and e.seq <= coalesce(anchor.seq, 0);
            select s.* into log from sessions s where s.tenant_id = p_tenant and s.id = (p_turn ->> 'fork')::uuid;
        end if;
    end if;

    if (p_turn ->> 'remember')::boolean then
        v_owner := case when v_user is null then 'session ' || log.id::text else 'user ' || v_agent::text || ' ' || v_user end;
        select s.id into store from memory_stores s where s.tenant_id = p_tenant and s.managed and s.owner_key = v_owner;
        if not found then
            insert into memory_stores (tenant_id, id, name, scope, agent_id, subject, managed, created_at, updated_at)
            values (p_tenant, (p_turn ->> 'store')::uuid, v_owner, case when v_user is null then 'session' else 'user' end,
                    v_agent, coalesce(v_user, log.id::text), true, p_at, p_at)
            on conflict (tenant_id, owner_key) where managed do nothing;
            select s.id into store from memory_stores s where s.tenant_id = p_tenant and s.managed and s.owner_key = v_owner;
        end if;
    end if;

    if first < count then
        -- The chain belongs to a message's last event; what comes after the messages has none.
        insert into events (tenant_id, session_id, seq, id, type, payload, chain, call_id, created_at, processed_at)
        select p_tenant, log.id, log.last_seq + row_number() over (order by m.nth, e.nth), (e.value ->> 'id')::uuid,
               e.value ->> 'type', e.value -> 'payload', case when e.nth = m.events then m.chain end, p_call, p_at, p_at
          from (select value -> 'events' as list, ordinality as nth, jsonb_array_length(value -> 'events') as events,
                       decode(value ->> 'chain', 'hex') as chain
                  from jsonb_array_elements(messages) with ordinality where ordinality > first
                 union all
                select p_turn -> 'after', count + 1, null, null) as m
         cross join lateral jsonb_array_elements(m.list) with ordinality as e (value, nth);
        get diagnostics added = row_count;
        log.last_seq := log.last_seq + added;
        log.head_chain := decode(messages -> -1 ->> 'chain', 'hex');
    end if;
    if first < count and store is not null then
        insert into passages (tenant_id, store_id, id, session_id, event_id, role, content, tokens, terms, created_at)
        select p_tenant, store, m.id, log.id, m.id, m.role, m.text, (octet_length(m.text) + 3) / 4,
               to_tsvector('english', left(m.text, 65536)), p_at
          from (select (value #>> '{events,0,id}')::uuid as id, value ->> 'role' as role, value ->> 'text' as text
                  from jsonb_array_elements(messages) with ordinality where ordinality > first) as m
         where m.text <> ''
        on conflict do nothing;
    end if;

    update sessions s
       set last_seq = log.last_seq, head_chain = log.head_chain, updated_at = greatest(s.updated_at, p_at)
     where s.tenant_id = p_tenant and s.id = log.id;
    return log.id;
end
$$;

-- Write a batch of calls: their usage, what they cost their keys, and their turns. Each call once, however often it is
-- sent: the call's id and time are the key of its usage row. Returns how many were new.
create function trunkline.gateway_record(p_calls jsonb) returns int
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
declare
    fresh uuid[];
    item  jsonb;
    log   uuid;
begin
    with given as (
        select * from jsonb_to_recordset(p_calls) as r(
            tenant uuid, call uuid, at_us bigint, key uuid, agent uuid, session uuid, "user" text, model text,
            provider text, upstream_model text, wire text, stream boolean, status int, error_type text,
            input_tokens int, output_tokens int, cached_tokens int, reasoning_tokens int, estimated boolean,
            cost_usd numeric, rounds int, retries int, first_byte_us bigint, total_us bigint, overhead_us bigint)
    ), written as (
        insert into usage (tenant_id, id, created_at, key_id, agent_id, session_id, user_id, model, provider, upstream_model,
                           wire, stream, status, error_type, input_tokens, output_tokens, cached_tokens, reasoning_tokens,
                           estimated, cost_usd, rounds, retries, first_byte_us, total_us, overhead_us)
        select tenant, call, 'epoch'::timestamptz + at_us * interval '1 microsecond', key, agent, session, "user", model, provider, upstream_model, wire, stream, status, error_type,
               input_tokens, output_tokens, cached_tokens, reasoning_tokens, estimated, cost_usd, rounds, retries,
               first_byte_us, total_us, overhead_us
          from given
        on conflict (tenant_id, id, created_at) do nothing
        returning tenant_id, id, key_id, cost_usd
    ), charged as (
        insert into key_spend as s (tenant_id, key_id, usd, requests)
        select w.tenant_id, w.key_id, coalesce(sum(w.cost_usd), 0), count(*)
          from written w join api_keys k on k.tenant_id = w.tenant_id and k.id = w.key_id
         group by 1, 2 order by 1, 2
        on conflict (tenant_id, key_id) do update set usd = s.usd + excluded.usd, requests = s.requests + excluded.requests
    )
    select coalesce(array_agg(id), '{}') into fresh from written;

    for item in select c from jsonb_array_elements(p_calls) as c where c ? 'turn' and (c ->> 'call')::uuid = any (fresh) loop
        log := record_turn((item ->> 'tenant')::uuid, (item ->> 'call')::uuid, 
                           'epoch'::timestamptz + (item ->> 'at_us')::bigint * interval '1 microsecond', item -> 'turn');
        update sessions s
           set input_tokens = s.input_tokens + (item ->> 'input_tokens')::int,
               output_tokens = s.output_tokens + (item ->> 'output_tokens')::int,
               cached_tokens = s.cached_tokens + (item ->> 'cached_tokens')::int
         where s.tenant_id = (item ->> 'tenant')::uuid and s.id = log;
    end loop;
    return cardinality(fresh);
end
$$;

revoke execute on all functions in schema trunkline from public;
grant execute on function trunkline.gateway_revision(), trunkline.gateway_snapshot(), trunkline.gateway_prices(),
    trunkline.gateway_context(uuid, uuid, int, text, uuid, bytea, text, int), trunkline.gateway_record(jsonb)
    to trunkline_gateway;
