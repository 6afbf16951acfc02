-- Recording calls: as an array of rows in Postgres' own binary form instead of JSON, and turns many at once.

set local role trunkline_owner;

alter table trunkline.usage
    add column team_id            uuid,                          -- the key's team, when the call was made
    add column cache_write_tokens int  not null default 0,
    add column source             text not null default 'provider'
        check (source in ('provider', 'cache', 'replay'));       -- who answered: `cache` and `replay` cost nothing

-- A call as the gateway records it. Its fields are found by name: one that a gateway does not know is null.
create type trunkline.call_row as (
    tenant             uuid,
    call               uuid,
    at                 timestamptz,
    key                uuid,
    team               uuid,
    agent              uuid,
    session            uuid,
    user_id            text,
    model              text,
    provider           text,
    upstream_model     text,
    wire               text,
    stream             boolean,
    status             int,
    error_type         text,
    input_tokens       int,
    output_tokens      int,
    cached_tokens      int,
    cache_write_tokens int,
    reasoning_tokens   int,
    estimated          boolean,
    cost_usd           float8,
    source             text,
    rounds             int,
    retries            int,
    first_byte_us      bigint,
    total_us           bigint,
    overhead_us        bigint,
    turn               jsonb,
    idempotency        jsonb                         -- {key: hex of the reservation, answer: what is replayed; null: nothing}
);
grant usage on type trunkline.call_row to trunkline_gateway;

-- Append turns whose client continues its session where the log ends, or begins one: all of them in one statement, which
-- costs a turn less than what it costs alone, from about five turns on. What is anything else (a second turn of one session in this batch, a
-- fork, a session that another call changed meanwhile) goes through `record_turn`, in the order given.
-- The tables are reached by their keys, whatever they held when the statement was planned.
create function trunkline.record_turns(p_calls trunkline.call_row[]) returns void
    language plpgsql
    set search_path = trunkline, pg_temp
    set plan_cache_mode = force_generic_plan
    set enable_hashjoin = off
    set enable_mergejoin = off
    set enable_seqscan = off
as $$
declare
    appended bigint[];
    item     record;
    log      uuid;
begin
    if (select count(c.turn) from unnest(p_calls) as c) >= 5 then
    with turns as materialized (
        select c.ordinality as nth, c.tenant, c.call, c.at, c.input_tokens, c.output_tokens, c.cached_tokens, t.*,
               c.turn -> 'messages' as messages, c.turn -> 'after' as after, (c.turn ->> 'store')::uuid as store,
               row_number() over (partition by c.tenant, t.session order by c.ordinality) as place,
               decode(c.turn #>> '{messages,-1,chain}', 'hex') as head,
               (select sum(jsonb_array_length(m -> 'events')) from jsonb_array_elements(c.turn -> 'messages') as m)
                   + jsonb_array_length(c.turn -> 'after') as events
          from unnest(p_calls) with ordinality as c
         cross join lateral (
               select (c.turn ->> 'session')::uuid as session, (c.turn ->> 'agent')::uuid as agent,
                      (c.turn ->> 'agent_version')::int as version, c.turn ->> 'user' as owner_user,
                      decode(c.turn ->> 'prefix', 'hex') as prefix, (c.turn ->> 'remember')::boolean as remember,
                      coalesce((c.turn ->> 'forks')::boolean, false) as forks) as t
         where c.turn is not null
    ), continued as (
        select t.nth, s.tenant_id, s.id, s.last_seq
          from turns t join sessions s on s.tenant_id = t.tenant and s.id = t.session
         where t.place = 1 and not t.forks and s.agent_id = t.agent and s.user_id is not distinct from t.owner_user
           and s.head_chain is not distinct from t.prefix
         order by s.tenant_id, s.id for update of s
    ), moved as (
        update sessions s
           set last_seq = s.last_seq + t.events, head_chain = t.head, updated_at = greatest(s.updated_at, t.at),
               input_tokens = s.input_tokens + t.input_tokens, output_tokens = s.output_tokens + t.output_tokens,
               cached_tokens = s.cached_tokens + t.cached_tokens
          from continued c join turns t on t.nth = c.nth
         where s.tenant_id = c.tenant_id and s.id = c.id
    ), begun as (
        insert into sessions (tenant_id, id, agent_id, agent_version, user_id, origin, status, last_seq, head_chain, root_id,
                              input_tokens, output_tokens, cached_tokens, created_at, updated_at)
        select t.tenant, t.session, t.agent, t.version, t.owner_user, 'gateway', 'idle', t.events, t.head, t.session,
               t.input_tokens, t.output_tokens, t.cached_tokens, t.at, t.at
          from turns t
          join agent_versions v on v.tenant_id = t.tenant and v.agent_id = t.agent and v.version = t.version
         where t.place = 1 and not t.forks and t.prefix is null
           and not exists (select from sessions s where s.tenant_id = t.tenant and s.id = t.session)
         order by t.tenant, t.session
        on conflict (tenant_id, id) do nothing
        returning tenant_id, id
    ), taken as materialized (
        select t.*, c.last_seq from continued c join turns t on t.nth = c.nth
         union all
        select t.*, 0 from begun b join turns t on t.tenant = b.tenant_id and t.session = b.id and t.place = 1
    ), written as (
        -- The chain belongs to a message's last event; what comes after the messages has none.
        insert into events (tenant_id, session_id, seq, id, type, payload, chain, call_id, created_at, processed_at)
        select t.tenant, t.session, t.last_seq + row_number() over (partition by t.nth order by m.nth, e.nth),
               (e.value ->> 'id')::uuid, e.value ->> 'type', e.value -> 'payload',
               case when e.nth = m.events then m.chain end, t.call, t.at, t.at
          from taken t
         cross join lateral (
               select value -> 'events' as list, ordinality as nth, jsonb_array_length(value -> 'events') as events,
                      decode(value ->> 'chain', 'hex') as chain
                 from jsonb_array_elements(t.messages) with ordinality
                union all
               select t.after, 1 << 30, null, null) as m
         cross join lateral jsonb_array_elements(m.list) with ordinality as e (value, nth)
    ), owners as materialized (
        select t.nth, t.tenant,
               case when t.owner_user is null then 'session ' || t.session::text
                    else 'user ' || t.agent::text || ' ' || t.owner_user end as owner
          from taken t where t.remember
    ), known as (
        select distinct o.tenant, o.owner, s.id
          from owners o join memory_stores s on s.tenant_id = o.tenant and s.managed and s.owner_key = o.owner
    ), made as (
        insert into memory_stores as s (tenant_id, id, name, scope, agent_id, subject, managed, created_at, updated_at)
        select distinct on (o.tenant, o.owner)
               o.tenant, t.store, o.owner, case when t.owner_user is null then 'session' else 'user' end, t.agent,
               coalesce(t.owner_user, t.session::text), true, t.at, t.at
          from owners o join taken t on t.nth = o.nth
         where not exists (select from memory_stores k where k.tenant_id = o.tenant and k.managed and k.owner_key = o.owner)
         order by o.tenant, o.owner, o.nth
        -- Made by another call at this moment: nothing changes, and its id comes back.
        on conflict (tenant_id, owner_key) where managed do update set updated_at = s.updated_at
        returning s.tenant_id, s.owner_key, s.id
    ), remembered as (
        insert into passages (tenant_id, store_id, id, session_id, event_id, role, content, tokens, terms, created_at)
        select t.tenant, s.id, m.id, t.session, m.id, m.role, m.text, (octet_length(m.text) + 3) / 4,
               to_tsvector('english', left(m.text, 65536)), t.at
          from (select tenant, owner, id from known union all select tenant_id, owner_key, id from made) as s
          join owners o on o.tenant = s.tenant and o.owner = s.owner
          join taken t on t.nth = o.nth
         cross join lateral (
               select (value #>> '{events,0,id}')::uuid as id, value ->> 'role' as role, value ->> 'text' as text
                 from jsonb_array_elements(t.messages)) as m
         where m.text <> ''
        on conflict do nothing
    )
    select array_agg(t.nth) into appended from taken t;
    end if;

    for item in
        select c.* from unnest(p_calls) with ordinality as c
         where c.turn is not null and c.ordinality <> all (coalesce(appended, '{}'))
         order by c.ordinality
    loop
        log := record_turn(item.tenant, item.call, item.at, item.turn);
        update sessions s
           set input_tokens = s.input_tokens + item.input_tokens, output_tokens = s.output_tokens + item.output_tokens,
               cached_tokens = s.cached_tokens + item.cached_tokens
         where s.tenant_id = item.tenant and s.id = log;
    end loop;
end
$$;

-- Add what calls have cost to what their keys have spent.
create function trunkline.charge_calls(p_calls trunkline.call_row[]) returns void
    language plpgsql
    set search_path = trunkline, pg_temp
as $$
begin
    insert into key_spend as s (tenant_id, key_id, usd, requests)
    select c.tenant, c.key, coalesce(sum(c.cost_usd::numeric), 0), count(*)
      from unnest(p_calls) as c join api_keys k on k.tenant_id = c.tenant and k.id = c.key
     group by 1, 2 order by 1, 2
    on conflict (tenant_id, key_id) do update set usd = s.usd + excluded.usd, requests = s.requests + excluded.requests;
end
$$;

-- Calls that came with an idempotency key: reserved before the call is sent, answered in the transaction that records it.
-- A reservation without an answer ends at `until`, or when its gateway's spool was replayed and had none.
create table trunkline.idempotent_calls (
    tenant_id  uuid        not null,
    key_id     uuid        not null,
    key        bytea       not null check (length(key) = 32),      -- SHA-256 of the client's key
    request    bytea       not null check (length(request) = 32),  -- SHA-256 of what it asked for
    call_id    uuid        not null,
    holder     uuid        not null,                 -- the spool of the gateway that carries it out
    until      timestamptz not null,
    answer     jsonb,                                -- {stream, upstream, session, body}; body null: too large to keep
    created_at timestamptz not null,
    primary key (tenant_id, key_id, key)
);
create index idempotent_calls_age on trunkline.idempotent_calls using brin (created_at);
create index idempotent_calls_holder on trunkline.idempotent_calls (holder) where answer is null;
alter table trunkline.idempotent_calls enable row level security;
alter table trunkline.idempotent_calls force row level security;
create policy owner on trunkline.idempotent_calls to trunkline_owner using (true) with check (true);

-- Reserve an idempotency key, or tell what became of the call that it was used for: `begun`, `answered`, `under_way`, or `other`,
-- which it is when it came with another request.
create function trunkline.gateway_idempotency_begin(p_tenant uuid, p_key_id uuid, p_key bytea, p_request bytea, p_call uuid,
                                                    p_holder uuid, p_limit_ms bigint)
    returns table (state text, call_id uuid, answer text)
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
#variable_conflict use_column
declare
    kept idempotent_calls;
begin
    insert into idempotent_calls as i (tenant_id, key_id, key, request, call_id, holder, until, created_at)
    values (p_tenant, p_key_id, p_key, p_request, p_call, p_holder,
            clock_timestamp() + p_limit_ms * interval '1 millisecond', clock_timestamp())
    on conflict on constraint idempotent_calls_pkey do update
       set request = excluded.request, call_id = excluded.call_id, holder = excluded.holder, until = excluded.until,
           answer = null, created_at = excluded.created_at
     where (i.answer is null and i.until < excluded.created_at) or i.created_at < excluded.created_at - interval '24 hours';
    if found then
        return query select 'begun', p_call, null::text;
        return;
    end if;
    select i.* into kept from idempotent_calls i where i.tenant_id = p_tenant and i.key_id = p_key_id and i.key = p_key;
    return query select case when kept.request <> p_request then 'other' when kept.answer is not null then 'answered'
                             else 'under_way' end, kept.call_id, kept.answer::text;
end
$$;

-- Forget the reservations of a gateway that died: what it had answered was in its spool, and is here now.
create function trunkline.gateway_idempotency_release(p_holder uuid) returns void
    language sql security definer
    set search_path = trunkline, pg_temp
as $$ delete from idempotent_calls i where i.holder = p_holder and i.answer is null $$;

-- Keep what calls answered under their idempotency keys; a call that has no answer to keep gives its key free.
create function trunkline.keep_answers(p_calls trunkline.call_row[]) returns void
    language plpgsql
    set search_path = trunkline, pg_temp
as $$
begin
    update idempotent_calls i set answer = c.idempotency -> 'answer'
      from unnest(p_calls) as c
     where i.tenant_id = c.tenant and i.key_id = c.key and i.key = decode(c.idempotency ->> 'key', 'hex') and i.call_id = c.call
       and c.idempotency ->> 'answer' is not null;
    delete from idempotent_calls i using unnest(p_calls) as c
     where i.tenant_id = c.tenant and i.key_id = c.key and i.key = decode(c.idempotency ->> 'key', 'hex') and i.call_id = c.call
       and c.idempotency ->> 'answer' is null;
end
$$;

-- What is past its day: answers kept under idempotency keys, the gateway's and the control plane's. For the worker's daily work,
-- which looks across tenants, and tells none of them. Returns how many these were.
create function trunkline.forget_answers() returns bigint
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
declare
    calls bigint;
    posts bigint;
begin
    delete from idempotent_calls i where i.created_at < now() - interval '24 hours' and i.until < now();
    get diagnostics calls = row_count;
    delete from idempotency_keys k where k.created_at < now() - interval '24 hours';
    get diagnostics posts = row_count;
    return calls + posts;
end
$$;

drop function trunkline.gateway_record(jsonb);

-- Write a batch of calls: their usage, what they cost their keys, and their turns. Each call once, however often it is
-- sent: the call's id and time are the key of its usage row. Returns how many were new.
create function trunkline.gateway_record(p_calls trunkline.call_row[]) returns int
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
declare
    fresh call_row[];
begin
    begin
        insert into usage (tenant_id, id, created_at, key_id, team_id, agent_id, session_id, user_id, model, provider,
                           upstream_model, wire, stream, status, error_type, input_tokens, output_tokens, cached_tokens,
                           cache_write_tokens, reasoning_tokens, estimated, cost_usd, source, rounds, retries, first_byte_us,
                           total_us, overhead_us)
        select tenant, call, at, key, team, agent, session, user_id, model, provider, upstream_model, wire, stream, status,
               error_type, input_tokens, output_tokens, cached_tokens, cache_write_tokens, reasoning_tokens, estimated,
               cost_usd, source, rounds, retries, first_byte_us, total_us, overhead_us
          from unnest(p_calls);
    exception when unique_violation then
        -- Sent again, because the answer to the first time was lost or its gateway died: only what is not there yet.
        select coalesce(array_agg(p_calls[c.nth] order by c.nth), '{}') into fresh
          from (select min(ordinality) as nth from unnest(p_calls) with ordinality
                 where not exists (select from usage u where u.tenant_id = tenant and u.id = call and u.created_at = at)
                 group by tenant, call, at) as c;
        return gateway_record(fresh);
    end;

    perform charge_calls(p_calls);
    if exists (select from unnest(p_calls) as c where c.turn is not null) then
        perform record_turns(p_calls);
    end if;
    if exists (select from unnest(p_calls) as c where c.idempotency is not null) then
        perform keep_answers(p_calls);
    end if;
    return cardinality(p_calls);
end
$$;

revoke execute on function trunkline.record_turns(trunkline.call_row[]), trunkline.charge_calls(trunkline.call_row[]),
    trunkline.keep_answers(trunkline.call_row[]), trunkline.forget_answers(), trunkline.gateway_record(trunkline.call_row[]),
    trunkline.gateway_idempotency_begin(uuid, uuid, bytea, bytea, uuid, uuid, bigint),
    trunkline.gateway_idempotency_release(uuid) from public;
grant execute on function trunkline.gateway_record(trunkline.call_row[]),
    trunkline.gateway_idempotency_begin(uuid, uuid, bytea, bytea, uuid, uuid, bigint),
    trunkline.gateway_idempotency_release(uuid) to trunkline_gateway;
grant execute on function trunkline.forget_answers() to trunkline_control;
