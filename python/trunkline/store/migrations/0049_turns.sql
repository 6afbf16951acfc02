-- Turns in few round trips: sessions that have something to do are taken from their own table, many at once, with all that their
-- turns begin with; and a step is saved by one statement.

set local role trunkline_owner;

-- The session's row says that it has something to do, and workers take it from there; jobs told them only where to look.
drop function trunkline.wake_session(text, text, uuid, uuid), trunkline.wake_abandoned_sessions(text, text, int);

-- Events of a session after number p_after, up to p_limit, oldest first: [id, seq, type, payload, created_at, processed_at] each.
create function trunkline.log_of(p_tenant uuid, p_session uuid, p_after bigint, p_limit int) returns json
    language plpgsql
    set search_path = trunkline, pg_temp
as $$
begin
    return (select json_agg(json_build_array(e.id, e.seq, e.type, e.payload, e.created_at, e.processed_at) order by e.seq)
              from (select * from events e
                     where e.tenant_id = p_tenant and e.session_id = p_session and e.seq > p_after
                     order by e.seq limit p_limit) as e);
end
$$;

-- What a worker needs to know of a session beside its log, from the agent version that it is pinned to; what is redacted, from the
-- current one.
create function trunkline.session_task(p_tenant uuid, p_session uuid)
    returns table (agent_id uuid, agent_version int, user_id text, definition jsonb, remembers boolean, key_id uuid, tools text[],
                   resources jsonb, vault_ids uuid[], environment jsonb, redact jsonb, redact_log boolean)
    language plpgsql
    set search_path = trunkline, pg_temp
as $$
begin
    return query
    select s.agent_id, s.agent_version, s.user_id, v.definition, v.memory_enabled, s.key_id, k.tools, s.resources, s.vault_ids,
           e.config, newest.redact, newest.redact_log
      from sessions s
      join agent_versions v on v.tenant_id = s.tenant_id and v.agent_id = s.agent_id and v.version = s.agent_version
      join agents a on a.tenant_id = s.tenant_id and a.id = s.agent_id
      join agent_versions newest on newest.tenant_id = a.tenant_id and newest.agent_id = a.id
                                and newest.version = a.current_version
      left join api_keys k on k.tenant_id = s.tenant_id and k.id = s.key_id
      left join environments e on e.tenant_id = s.tenant_id and e.id = s.environment_id
     where s.tenant_id = p_tenant and s.id = p_session;
end
$$;

-- Take up to p_limit sessions, of any tenants, that run while nobody works on them, for p_seconds; the fence tells this claim from all
-- earlier ones. With each comes all that a turn begins with: its head, its log where that has up to p_log events, and its task.
create function trunkline.claim_sessions(p_owner text, p_seconds float8, p_limit int, p_log int)
    returns table (tenant_id uuid, session_id uuid, fence bigint, status text, last_seq bigint, budget jsonb, limits jsonb,
                   input_tokens bigint, output_tokens bigint, cached_tokens bigint, turns int, tokens bigint, cost_nano bigint,
                   unpriced boolean, active_us bigint, running_since timestamptz, log json, agent_id uuid, agent_version int, user_id text, definition jsonb, remembers boolean, key_id uuid, tools text[],
                   resources jsonb, vault_ids uuid[], environment jsonb, redact jsonb, redact_log boolean)
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
#variable_conflict use_column
declare
    claimed record;
begin
    for claimed in
        with due as (
            select s.tenant_id, s.id from sessions s
             where s.status = 'running' and (s.lease_until is null or s.lease_until < statement_timestamp())
             limit p_limit for no key update skip locked
        )
        update sessions s
           set lease_owner = p_owner, lease_until = clock_timestamp() + p_seconds * interval '1 second',
               lease_fence = s.lease_fence + 1
          from due where s.tenant_id = due.tenant_id and s.id = due.id
        returning s.*
    loop
        return query select claimed.tenant_id, claimed.id, claimed.lease_fence, claimed.status, claimed.last_seq,
                            claimed.budget, claimed.limits, claimed.input_tokens, claimed.output_tokens, claimed.cached_tokens,
                            claimed.turns, claimed.input_tokens + claimed.output_tokens + claimed.cached_tokens,
                            claimed.cost_nano, claimed.unpriced, claimed.active_us, claimed.running_since,
                            case when claimed.last_seq <= p_log then log_of(claimed.tenant_id, claimed.id, 0, p_log) end, t.*
                       from session_task(claimed.tenant_id, claimed.id) as t;
    end loop;
end
$$;

-- Keep texts for recall, [id, role, content, tokens] each, in the store that an owner has by itself, made if there is none.
-- Nothing is kept where that is archived.
create function trunkline.keep_passages(p_tenant uuid, p_session uuid, p_store uuid, p_owner text, p_scope text, p_agent uuid,
                                        p_subject text, p_passages jsonb, p_at timestamptz) returns void
    language plpgsql
    set search_path = trunkline, pg_temp
as $$
declare
    store memory_stores;
begin
    for attempt in 1 .. 3 loop
        select * into store from memory_stores m where m.tenant_id = p_tenant and m.managed and m.owner_key = p_owner
           for key share;
        exit when found;
        insert into memory_stores (tenant_id, id, name, scope, agent_id, subject, managed, created_at, updated_at)
        values (p_tenant, p_store, p_owner, p_scope, p_agent, p_subject, true, p_at, p_at)
        on conflict (tenant_id, owner_key) where managed do nothing;
    end loop;
    if store.id is null then
        raise serialization_failure using message = 'the memory store is being deleted and made again by others';
    elsif store.archived_at is null then
        insert into passages (tenant_id, store_id, id, session_id, event_id, role, content, tokens, created_at)
        select p_tenant, store.id, (p.value ->> 0)::uuid, p_session, (p.value ->> 0)::uuid, p.value ->> 1, p.value ->> 2,
               (p.value ->> 3)::int, p_at
          from jsonb_array_elements(p_passages) as p;
    end if;
end
$$;

-- Append the events of steps to sessions whose heads are as their holders know them, and move the heads past them; count what the
-- steps used, note which of the client's events they have taken up, keep what was said for recall, and let a session go with its last
-- step. What is said of each, by its place in p_steps: `saved`; `lost`: another has claimed the session; `changed`: its head is another
-- by now; `busy`: somebody is writing to it, and p_wait says not to wait. Only what was saved has changed anything.
--
-- Together because each commit that notifies waits for the one before: {tenant, session, fence, status, last_seq, key, budget, limits, at,
-- events: [[id, type, payload], ...], new_status, tokens: [input, output, cached, turns, nanodollars or null], taken_up: [seq, ...], is_last,
-- said: [[id, role, content, tokens], ...], store, owner, scope, agent, subject} each.
create function trunkline.append_steps(p_steps jsonb, p_wait boolean) returns table (nth bigint, outcome text)
    language plpgsql
    set search_path = trunkline, pg_temp
as $$
#variable_conflict use_column
declare
    step     record;
    v_tenant  uuid;
    v_session uuid;
    v_at      timestamptz;
    v_events  int;
    head     record;
begin
    if not p_wait then
        perform set_config('lock_timeout', '1s', true);
    end if;
    -- Stores are made in one order, so that two workers cannot wait for each other.
    for step in select s.value, s.nth from jsonb_array_elements(p_steps) with ordinality as s(value, nth)
                 order by s.value ->> 'tenant', s.value ->> 'owner', s.nth
    loop
        nth := step.nth;
        v_tenant := (step.value ->> 'tenant')::uuid;
        v_session := (step.value ->> 'session')::uuid;
        v_at := (step.value ->> 'at')::timestamptz;
        v_events := jsonb_array_length(step.value -> 'events');
        perform set_config('trunkline.tenant', v_tenant::text, true);
        if p_wait then
            select s.status, s.last_seq, s.key_id, s.budget, s.limits into head from sessions s
             where s.tenant_id = v_tenant and s.id = v_session and s.lease_fence = (step.value ->> 'fence')::bigint
               and s.lease_owner is not null
               for update;
        else
            select s.status, s.last_seq, s.key_id, s.budget, s.limits into head from sessions s
             where s.tenant_id = v_tenant and s.id = v_session and s.lease_fence = (step.value ->> 'fence')::bigint
               and s.lease_owner is not null
               for update skip locked;
        end if;
        if not found then
            outcome := case when exists (select from sessions s
                                          where s.tenant_id = v_tenant and s.id = v_session and s.lease_owner is not null
                                            and s.lease_fence = (step.value ->> 'fence')::bigint)
                            then 'busy' else 'lost' end;
            return next;
            continue;
        elsif (head.status, head.last_seq, head.key_id) is distinct from
              (step.value ->> 'status', (step.value ->> 'last_seq')::bigint, (step.value ->> 'key')::uuid)
              or (head.budget, head.limits) is distinct from
                 (nullif(step.value -> 'budget', 'null'), nullif(step.value -> 'limits', 'null')) then
            outcome := 'changed';
            return next;
            continue;
        end if;
        insert into events (tenant_id, session_id, seq, id, type, payload, created_at, processed_at)
        select v_tenant, v_session, head.last_seq + e.nth, (e.value ->> 0)::uuid, e.value ->> 1, e.value -> 2, v_at, v_at
          from jsonb_array_elements(step.value -> 'events') with ordinality as e(value, nth);
        update sessions s
           set last_seq = s.last_seq + v_events, status = step.value ->> 'new_status',
               updated_at = case when v_events = 0 then s.updated_at else v_at end,
               input_tokens = s.input_tokens + (step.value #>> '{tokens,0}')::bigint,
               output_tokens = s.output_tokens + (step.value #>> '{tokens,1}')::bigint,
               cached_tokens = s.cached_tokens + (step.value #>> '{tokens,2}')::bigint,
               turns = s.turns + (step.value #>> '{tokens,3}')::int,
               cost_nano = s.cost_nano + coalesce((step.value #>> '{tokens,4}')::bigint, 0),
               unpriced = s.unpriced or step.value #>> '{tokens,4}' is null,
               lease_owner = case when not (step.value ->> 'is_last')::boolean then s.lease_owner end,
               lease_until = case when not (step.value ->> 'is_last')::boolean then s.lease_until end
         where s.tenant_id = v_tenant and s.id = v_session;
        if step.value -> 'taken_up' <> '[]' then
            update events e set processed_at = v_at
             where e.tenant_id = v_tenant and e.session_id = v_session and e.processed_at is null
               and e.seq = any (array(select t::bigint from jsonb_array_elements_text(step.value -> 'taken_up') as t));
        end if;
        if step.value -> 'said' <> '[]' then
            perform keep_passages(v_tenant, v_session, (step.value ->> 'store')::uuid, step.value ->> 'owner',
                                  step.value ->> 'scope', (step.value ->> 'agent')::uuid, step.value ->> 'subject',
                                  step.value -> 'said', v_at);
        end if;
        outcome := 'saved';
        return next;
    end loop;
end
$$;

revoke execute on function trunkline.log_of(uuid, uuid, bigint, int), trunkline.session_task(uuid, uuid),
    trunkline.claim_sessions(text, float8, int, int),
    trunkline.keep_passages(uuid, uuid, uuid, text, text, uuid, text, jsonb, timestamptz),
    trunkline.append_steps(jsonb, boolean) from public;
grant execute on function trunkline.log_of(uuid, uuid, bigint, int), trunkline.session_task(uuid, uuid),
    trunkline.claim_sessions(text, float8, int, int),
    trunkline.keep_passages(uuid, uuid, uuid, text, text, uuid, text, jsonb, timestamptz),
    trunkline.append_steps(jsonb, boolean) to trunkline_control;
