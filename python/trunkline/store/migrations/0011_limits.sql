-- Limits of keys, teams and end users, what these have used, and the leases by which many gateways share one limit.
--
-- Money that a gateway may spend without asking is a lease: `remaining = budget - spent - leases of others that live`.
-- What a call cost goes from the lease of the gateway that carried it out to `spent` in one transaction, `charge`, so that
-- neither is ever counted twice or not at all. A lease that is not renewed ends on this server's clock.
-- Locks are taken in one order everywhere: meters by (tenant, kind, subject), then their leases.

set local role trunkline_owner;

create table trunkline.teams (
    tenant_id  uuid        not null references trunkline.tenants (id),
    id         uuid        not null,
    name       text        not null check (length(name) between 1 and 256),
    created_at timestamptz not null,
    updated_at timestamptz not null,
    archived_at timestamptz,
    primary key (tenant_id, id)
);
create unique index teams_name on trunkline.teams (tenant_id, name) where archived_at is null;

alter table trunkline.api_keys
    add column team_id uuid,
    add column user_id text check (length(user_id) between 1 and 256), -- the only end user it speaks for
    add foreign key (tenant_id, team_id) references trunkline.teams (tenant_id, id);
create index api_keys_team on trunkline.api_keys (tenant_id, team_id) where team_id is not null;

-- What a subject may use. `users_of_key` and `users_of_team` hold for each end user who has no limits of their own and comes
-- with that key, or a key of that team. What a key may be used for and until when stands with the key itself.
create table trunkline.limits (
    tenant_id     uuid        not null references trunkline.tenants (id),
    kind          text        not null check (kind in ('key', 'team', 'user', 'users_of_key', 'users_of_team')),
    subject       text        not null check (length(subject) between 1 and 256),  -- the id of the key, team or end user
    models        text[],                            -- names, or patterns with one *; null: any
    expires_at    timestamptz,
    budget_usd    numeric     check (budget_usd >= 0 and budget_usd < 1e9),
    budget_period text        not null default 'total'
                  check (budget_period in ('total', 'day', 'week', 'month') or budget_period ~ '^[1-9][0-9]{0,8}$'),
    rpm           int         check (rpm > 0),       -- requests a minute
    tpm           bigint      check (tpm > 0),       -- tokens a minute, input and output
    parallel      int         check (parallel > 0),  -- calls under way at once
    updated_at    timestamptz not null,
    primary key (tenant_id, kind, subject),
    check (kind <> 'key' or (models is null and expires_at is null))
);

insert into trunkline.limits (tenant_id, kind, subject, budget_usd, rpm, updated_at)
select tenant_id, 'key', id::text, budget_usd, rpm, created_at
  from trunkline.api_keys where budget_usd is not null or rpm is not null;
alter table trunkline.api_keys drop column budget_usd, drop column rpm;

-- What a subject has used. Of an end user: `user`, or `user_of_key` and `user_of_team` with the subject 'OWNER USER', where
-- the limits are the default of a key or team.
create table trunkline.meters (
    tenant_id       uuid        not null references trunkline.tenants (id),
    kind            text        not null check (kind in ('key', 'team', 'user', 'user_of_key', 'user_of_team')),
    subject         text        not null,
    usd             numeric     not null default 0,  -- in all
    requests        bigint      not null default 0,
    period          text        not null default 'total',
    period_start    timestamptz not null default '-infinity',
    period_usd      numeric     not null default 0,  -- of calls that began in that period
    minute          timestamptz not null default '-infinity',
    minute_requests bigint      not null default 0,  -- what gateways were given of this minute
    minute_tokens   bigint      not null default 0,
    primary key (tenant_id, kind, subject)
);
insert into trunkline.meters (tenant_id, kind, subject, usd, requests)
select tenant_id, 'key', key_id::text, usd, requests from trunkline.key_spend;
drop table trunkline.key_spend;

-- What a gateway holds of a subject's limits. `granted` is all that the gateway was ever told to add, by which an answer that
-- never reached it is recognised.
create table trunkline.leases (
    tenant_id    uuid        not null,
    kind         text        not null,
    subject      text        not null,
    holder       uuid        not null,               -- one run of a gateway
    nano_usd     bigint      not null,               -- not yet spent and recorded, in billionths of a US dollar
    granted      bigint      not null,
    period_start timestamptz not null,
    slots        int         not null,
    until        timestamptz not null,
    primary key (tenant_id, kind, subject, holder),
    foreign key (tenant_id, kind, subject) references trunkline.meters (tenant_id, kind, subject) on delete cascade
);
create index leases_holder on trunkline.leases (holder);

do $$
declare
    name text;
begin
    foreach name in array array['teams', 'limits', 'meters', 'leases'] loop
        execute format('alter table trunkline.%I enable row level security', name);
        execute format('alter table trunkline.%I force row level security', name);
        execute format('create policy one_tenant on trunkline.%I to trunkline_control
                        using (tenant_id = trunkline.current_tenant()) with check (tenant_id = trunkline.current_tenant())', name);
        execute format('create policy owner on trunkline.%I to trunkline_owner using (true) with check (true)', name);
    end loop;
end
$$;
grant select, insert, update, delete on trunkline.teams, trunkline.limits to trunkline_control;
grant select on trunkline.meters to trunkline_control;

create trigger changed after insert or update or delete on trunkline.teams
    for each statement execute function trunkline.configuration_changed();

-- Limits of keys and teams are in every gateway's snapshot. Those of end users may be many and are not: whoever keeps a copy is
-- told whose to read again; only that a tenant has any at all is in the snapshot.
create function trunkline.limits_changed() returns trigger
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
declare
    changed limits;
begin
    if tg_op = 'DELETE' then changed := old; else changed := new; end if;
    if changed.kind = 'user' then
        perform pg_notify('trunkline_limits', changed.tenant_id || ' ' || changed.subject);
    end if;
    if changed.kind <> 'user'
       or (tg_op <> 'UPDATE' and (select count(*) < 2 from (select from limits l where l.tenant_id = changed.tenant_id
                                                             and l.kind = 'user' limit 2) as few)) then
        update configuration set revision = revision + 1;
        perform pg_notify('trunkline_configuration', '');
    end if;
    return null;
end
$$;
create trigger changed after insert or update or delete on trunkline.limits
    for each row execute function trunkline.limits_changed();

-- A key that is erased (with its agent) takes along what was kept of it.
create function trunkline.key_erased() returns trigger
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
begin
    delete from limits l where l.tenant_id = old.tenant_id and l.kind in ('key', 'users_of_key') and l.subject = old.id::text;
    delete from meters m where m.tenant_id = old.tenant_id and m.kind = 'key' and m.subject = old.id::text;
    delete from meters m where m.tenant_id = old.tenant_id and m.kind = 'user_of_key'
       and m.subject >= old.id::text and m.subject < old.id::text || '!' and starts_with(m.subject, old.id::text || ' ');
    return null;
end
$$;
create trigger erased after delete on trunkline.api_keys
    for each row execute function trunkline.key_erased();

-- Periods are in UTC: a day begins at midnight, a week on Monday, a month on its first; N seconds are counted from 1970 on.
create function trunkline.period_start(p_period text, p_at timestamptz) returns timestamptz
    language sql immutable
as $$
    select case when p_period = 'total' then '-infinity'::timestamptz
                when p_period in ('day', 'week', 'month')
                then date_trunc(p_period, p_at at time zone 'UTC') at time zone 'UTC'
                else to_timestamp(floor(extract(epoch from p_at) / p_period::int) * p_period::int) end
$$;

create function trunkline.period_end(p_period text, p_at timestamptz) returns timestamptz
    language sql immutable
as $$
    select case when p_period = 'total' then 'infinity'::timestamptz
                when p_period in ('day', 'week', 'month')
                then (date_trunc(p_period, p_at at time zone 'UTC') + ('1 ' || p_period)::interval) at time zone 'UTC'
                else to_timestamp((floor(extract(epoch from p_at) / p_period::int) + 1) * p_period::int) end
$$;

-- The limits that hold for an end user who comes with a key, and under which name what they use is counted; none where there are none.
create function trunkline.user_limits(p_tenant uuid, p_key uuid, p_team uuid, p_user text)
    returns table (meter_kind text, meter_subject text, found trunkline.limits)
    language sql stable
    set search_path = trunkline, pg_temp
as $$
    select case l.kind when 'user' then 'user' when 'users_of_key' then 'user_of_key' else 'user_of_team' end,
           case when l.kind = 'user' then p_user else l.subject || ' ' || p_user end, l
      from limits l
     where l.tenant_id = p_tenant
       and ((l.kind = 'user' and l.subject = p_user) or (l.kind = 'users_of_key' and l.subject = p_key::text)
            or (l.kind = 'users_of_team' and l.subject = p_team::text))
     order by array_position(array['user', 'users_of_key', 'users_of_team'], l.kind)
     limit 1
$$;

create function trunkline.limits_json(l trunkline.limits) returns jsonb
    language sql stable
as $$
    select case when l.kind is not null then jsonb_build_object(
        'models', l.models, 'expires_at', extract(epoch from l.expires_at)::float8, 'budget_usd', l.budget_usd::float8,
        'budget_period', l.budget_period, 'rpm', l.rpm, 'tpm', l.tpm, 'parallel', l.parallel) end
$$;

-- How much of `p_free` a holder of `p_held` is given who must have `p_need` and would like `p_want`; below zero: gives back. A
-- quarter of what is left at most, unless more is needed: so that others find some too.
create function trunkline.grant_of(p_free bigint, p_held bigint, p_need bigint, p_want bigint) returns bigint
    language sql immutable
as $$
    select case when p_free < 0 then greatest(p_free, -greatest(p_held, 0))
                when p_want <= 0 then greatest(p_want, -greatest(p_held, 0))
                else least(greatest(p_want, p_need), greatest(p_need, p_free / 4), p_free) end
$$;

-- Renew, enlarge or give back a gateway's leases, for any number of subjects in one call; it is the only way to a lease.
-- An item: {tenant, kind, id: of the meter, key, user: for an end user, look: only tell the limits of that user, usd_new: holds none yet, usd_granted: all that it was
-- granted of this lease, {usd,slots,requests,tokens}_{need,want}, slots_held, minute: epoch of the minute that it holds}.
-- `need` is what calls wait for, `want` what the gateway would like to have besides, below zero to give back.
-- The answer has for each item the limits (null: none), and for each of them what was granted, what is left, and when it ends.
create function trunkline.gateway_lease(p_holder uuid, p_ttl_ms int, p_items jsonb) returns jsonb
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
declare
    item    record;
    meter   meters;
    lease   leases;
    l       limits;
    t       timestamptz;
    since   timestamptz;
    this    timestamptz;
    fresh   boolean;
    others  record;
    held    bigint;
    free    bigint;
    granted bigint;
    slots   int;
    one     jsonb;
    answers jsonb := '[]';
begin
    for item in
        select g.*, i.*, k.meter_kind, k.meter_subject, k.found
          from jsonb_array_elements(p_items) with ordinality as g(value, n)
         cross join lateral jsonb_to_record(g.value) as i(
               tenant uuid, kind text, id text, key uuid, "user" text, look boolean, usd_new boolean, usd_granted bigint, usd_need bigint, usd_want bigint,
               slots_held int, slots_need int, slots_want int, minute bigint, requests_need bigint, requests_want bigint,
               tokens_need bigint, tokens_want bigint)
          left join lateral (
               select i.kind as meter_kind, i.id as meter_subject, own as found from limits own
                where i.kind in ('key', 'team') and own.tenant_id = i.tenant and own.kind = i.kind and own.subject = i.id
               union all
               select u.* from api_keys a
                cross join lateral user_limits(i.tenant, i.key, a.team_id, i."user") u
                where a.tenant_id = i.tenant and a.id = i.key
                  and (i.look or (u.meter_kind = i.kind and u.meter_subject = i.id))) as k on true
         order by i.tenant, k.meter_kind, k.meter_subject
    loop
        l := item.found;
        if item.meter_kind is null then
            answers := answers || jsonb_build_object('n', item.n - 1, 'limits', null);
            continue;
        end if;
        if item.look then
            answers := answers || jsonb_build_object('n', item.n - 1, 'kind', item.meter_kind, 'subject', item.meter_subject,
                                                     'limits', limits_json(l));
            continue;
        end if;
        insert into meters (tenant_id, kind, subject) values (item.tenant, item.meter_kind, item.meter_subject)
        on conflict do nothing;
        select m.* into strict meter from meters m
         where m.tenant_id = item.tenant and m.kind = item.meter_kind and m.subject = item.meter_subject for update;
        t := clock_timestamp();
        since := period_start(l.budget_period, t);
        this := to_timestamp(floor(extract(epoch from t) / 60) * 60);
        one := jsonb_build_object('n', item.n - 1, 'kind', item.meter_kind, 'subject', item.meter_subject, 'limits', limits_json(l),
                                  'minute', extract(epoch from this)::bigint,
                                  'minute_ends_us', ceil(extract(epoch from this + interval '1 minute' - t) * 1e6)::bigint);

        if l.budget_usd is not null or l.parallel is not null then
            select coalesce(sum(greatest(o.nano_usd, 0)) filter (where o.period_start = since), 0)::bigint as nano_usd,
                   coalesce(sum(o.slots), 0)::int as slots into others
              from leases o
             where o.tenant_id = item.tenant and o.kind = item.meter_kind and o.subject = item.meter_subject
               and o.holder <> p_holder and o.until > t;
            select o.* into lease from leases o
             where o.tenant_id = item.tenant and o.kind = item.meter_kind and o.subject = item.meter_subject
               and o.holder = p_holder;
            fresh := item.usd_new or lease.holder is null or lease.period_start <> since;
            -- What was granted and never heard of is not held; what was given back without a word of it is held still.
            held := case when fresh then 0 else lease.nano_usd + item.usd_granted - lease.granted end;
            granted := 0;
            if l.budget_usd is not null then
                free := floor((l.budget_usd - case when l.budget_period = 'total' then meter.usd
                                                   when meter.period = l.budget_period and meter.period_start = since
                                                   then meter.period_usd else 0 end) * 1000000000)::bigint
                        - others.nano_usd - greatest(held, 0);
                granted := grant_of(free, held, item.usd_need, item.usd_want);
                one := one || jsonb_build_object('usd', jsonb_build_object(
                    'fresh', fresh, 'granted', granted, 'left', free - granted,
                    'ends_us', case when l.budget_period <> 'total'
                               then ceil(extract(epoch from period_end(l.budget_period, t) - t) * 1e6)::bigint end));
            end if;
            slots := item.slots_held;
            if l.parallel is not null then
                free := l.parallel - others.slots - item.slots_held;
                slots := item.slots_held + grant_of(free, item.slots_held, item.slots_need, item.slots_want);
                one := one || jsonb_build_object('slots', jsonb_build_object(
                    'granted', slots - item.slots_held, 'left', free - (slots - item.slots_held)));
            end if;
            insert into leases (tenant_id, kind, subject, holder, nano_usd, granted, period_start, slots, until)
            values (item.tenant, item.meter_kind, item.meter_subject, p_holder, held + granted,
                    case when fresh then granted else item.usd_granted + granted end, since, slots,
                    t + p_ttl_ms * interval '1 millisecond')
            on conflict (tenant_id, kind, subject, holder) do update
               set nano_usd = excluded.nano_usd, granted = excluded.granted, period_start = excluded.period_start,
                   slots = excluded.slots, until = excluded.until;
            if fresh then
                delete from leases o
                 where o.tenant_id = item.tenant and o.kind = item.meter_kind and o.subject = item.meter_subject
                   and o.until < t - interval '1 hour';
            end if;
        end if;

        if l.rpm is not null or l.tpm is not null then
            if meter.minute <> this then
                meter.minute_requests := 0;
                meter.minute_tokens := 0;
            end if;
            if l.rpm is not null then
                free := l.rpm - meter.minute_requests;
                granted := grant_of(free, case when item.minute = extract(epoch from this) then meter.minute_requests else 0 end,
                                    item.requests_need, item.requests_want);
                meter.minute_requests := meter.minute_requests + granted;
                one := one || jsonb_build_object('requests', jsonb_build_object('granted', granted, 'left', free - granted));
            end if;
            if l.tpm is not null then
                free := l.tpm - meter.minute_tokens;
                granted := grant_of(free, case when item.minute = extract(epoch from this) then meter.minute_tokens else 0 end,
                                    item.tokens_need, item.tokens_want);
                meter.minute_tokens := meter.minute_tokens + granted;
                one := one || jsonb_build_object('tokens', jsonb_build_object('granted', granted, 'left', free - granted));
            end if;
            update meters m set minute = this, minute_requests = meter.minute_requests, minute_tokens = meter.minute_tokens
             where m.tenant_id = item.tenant and m.kind = item.meter_kind and m.subject = item.meter_subject;
        end if;
        answers := answers || one;
    end loop;
    return answers;
end
$$;

-- Give back all that a gateway holds: it ends, and what it carried out is recorded.
create function trunkline.gateway_release(p_holder uuid) returns void
    language sql security definer
    set search_path = trunkline, pg_temp
as $$ delete from leases l where l.holder = p_holder $$;

-- Add calls to what their keys, teams and end users have used, and take them from the leases that they were made under. An entry
-- of each array is one call: whose, with which key, for which end user, when it began, what it cost (null: not known), and the
-- gateway that held the lease (null: it was under no limit). A call counts in the budget period in which it began.
create function trunkline.charge(p_tenants uuid[], p_keys uuid[], p_users text[], p_ats timestamptz[], p_usd numeric[],
                                 p_holders uuid[]) returns void
    language sql
    set search_path = trunkline, pg_temp
as $$
    with calls as materialized (
        select c.tenant, c.key, c.user_id, c.at, coalesce(c.usd, 0) as usd, c.holder, k.team_id
          from unnest(p_tenants, p_keys, p_users, p_ats, p_usd, p_holders) as c(tenant, key, user_id, at, usd, holder)
          join api_keys k on k.tenant_id = c.tenant and k.id = c.key
    ), parts as materialized (
        select n.tenant, n.kind, n.subject, n.at, n.usd, n.holder, n.period, period_start(n.period, n.at) as since
          from (select c.tenant, o.kind, o.subject, c.at, c.usd, c.holder, coalesce(l.budget_period, 'total') as period
                  from calls c
                 cross join lateral (values ('key', c.key::text), ('team', c.team_id::text)) as o(kind, subject)
                  left join limits l on l.tenant_id = c.tenant and l.kind = o.kind and l.subject = o.subject
                 where o.subject is not null
                 union all
                select c.tenant, u.meter_kind, u.meter_subject, c.at, c.usd, c.holder, (u.found).budget_period
                  from calls c
                 cross join lateral user_limits(c.tenant, c.key, c.team_id, c.user_id) u
                 where c.user_id is not null) as n
    ), sums as (
        select p.tenant, p.kind, p.subject, p.period, max(p.since) as since, sum(p.usd) as usd, count(*) as requests,
               sum(p.usd) filter (where p.since = p.newest) as period_usd
          from (select *, max(since) over (partition by tenant, kind, subject) as newest from parts) as p
         group by 1, 2, 3, 4
    ), metered as (
        insert into meters as m (tenant_id, kind, subject, usd, requests, period, period_start, period_usd)
        select tenant, kind, subject, usd, requests, period, since, period_usd from sums order by 1, 2, 3
        on conflict (tenant_id, kind, subject) do update
           set usd = m.usd + excluded.usd, requests = m.requests + excluded.requests, period = excluded.period,
               period_start = case when m.period = excluded.period then greatest(m.period_start, excluded.period_start)
                                   else excluded.period_start end,
               period_usd = case when m.period <> excluded.period or m.period_start < excluded.period_start
                                 then excluded.period_usd
                                 when m.period_start = excluded.period_start then m.period_usd + excluded.period_usd
                                 else m.period_usd end
        returning m.tenant_id, m.kind, m.subject
    )
    update leases l set nano_usd = l.nano_usd - p.nano_usd
      from (select p.tenant, p.kind, p.subject, p.holder, p.since, sum(round(p.usd * 1000000000))::bigint as nano_usd
              from parts p join metered m on m.tenant_id = p.tenant and m.kind = p.kind and m.subject = p.subject
             where p.holder is not null
             group by 1, 2, 3, 4, 5) as p
     where l.tenant_id = p.tenant and l.kind = p.kind and l.subject = p.subject and l.holder = p.holder
       and l.period_start = p.since
$$;

alter type trunkline.call_row add attribute holder uuid; -- whose leases it was made under; null: it was under no limit

create or replace function trunkline.charge_calls(p_calls trunkline.call_row[]) returns void
    language plpgsql
    set search_path = trunkline, pg_temp
as $$
begin
    perform charge(array_agg(c.tenant), array_agg(c.key), array_agg(c.user_id), array_agg(c.at),
                   array_agg(c.cost_usd::numeric), array_agg(c.holder))
       from unnest(p_calls) as c;
end
$$;

-- As before, but the charge comes last: the rows that many gateways write are locked only to the end of this function.
create or replace function trunkline.gateway_record(p_calls trunkline.call_row[]) returns int
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

    if exists (select from unnest(p_calls) as c where c.turn is not null) then
        perform record_turns(p_calls);
    end if;
    if exists (select from unnest(p_calls) as c where c.idempotency is not null) then
        perform keep_answers(p_calls);
    end if;
    perform charge_calls(p_calls);
    return cardinality(p_calls);
end
$$;

-- Everything that authenticate, admit and resolve need. The revision is read first: what changes meanwhile is read again later.
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
                     'hash', encode(k.hash, 'hex'), 'tenant', k.tenant_id, 'id', k.id, 'name', k.name, 'scopes', k.scopes,
                     'agent', k.agent_id, 'team', k.team_id, 'user', k.user_id, 'models', k.models,
                     'expires_at', extract(epoch from k.expires_at)::float8, 'limits', limits_json(l),
                     'limits_users', u.kind is not null)), '[]')
                   from api_keys k
                   left join limits l on l.tenant_id = k.tenant_id and l.kind = 'key' and l.subject = k.id::text
                   left join limits u on u.tenant_id = k.tenant_id and u.kind = 'users_of_key' and u.subject = k.id::text
                  where k.revoked_at is null and (k.expires_at is null or k.expires_at > now())),
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
                     'has_blocks', b.count > 0, 'has_session_blocks', b.of_sessions > 0)), '[]')
                   from agents a
                   join agent_versions v on v.tenant_id = a.tenant_id and v.agent_id = a.id and v.version = a.current_version
                  cross join lateral (select count(*) as count, count(*) filter (where scope = 'session') as of_sessions
                                        from agent_blocks b where b.tenant_id = a.tenant_id and b.agent_id = a.id
                                         and b.version = v.version) as b
                  where a.archived_at is null));
end
$$;

-- The limits of a subject, and what it has used of them: one row, also where there are none. Under the caller's own rights.
create function trunkline.limits_of(p_tenant uuid, p_kind text, p_subject text)
    returns table (models text[], expires_at timestamptz, budget_usd numeric, budget_period text, rpm int, tpm bigint,
                   parallel int, spent_usd numeric, requests bigint, period_spent_usd numeric, period_starts_at timestamptz,
                   period_ends_at timestamptz)
    language sql stable
    set search_path = trunkline, pg_temp
as $$
    select l.models, l.expires_at, l.budget_usd, coalesce(l.budget_period, 'total'), l.rpm, l.tpm, l.parallel,
           coalesce(m.usd, 0), coalesce(m.requests, 0),
           case when coalesce(l.budget_period, 'total') = 'total' then coalesce(m.usd, 0)
                when m.period = l.budget_period and m.period_start = period_start(l.budget_period, now()) then m.period_usd
                else 0 end,
           nullif(period_start(l.budget_period, now()), '-infinity'), nullif(period_end(l.budget_period, now()), 'infinity')
      from (values (1)) as one
      left join limits l on l.tenant_id = p_tenant and l.kind = p_kind and l.subject = p_subject
      left join meters m on m.tenant_id = p_tenant and m.kind = p_kind and m.subject = p_subject
$$;

-- Prices depend on the prompt's length for some models: `tiers` is [[from so many prompt tokens on, input, output, cache read, cache
-- write], ...], each for all of a call's tokens. `context_tokens` bounds what a prompt can cost.
alter table trunkline.model_prices
    add column context_tokens int,
    add column tiers jsonb not null default '[]';
delete from trunkline.catalogue_versions where name = 'genai-prices'; -- read anew, with these

create or replace function trunkline.gateway_prices() returns jsonb
    language sql stable security definer
    set search_path = trunkline, pg_temp
as $$
    select coalesce(jsonb_agg(jsonb_build_object(
               'provider', provider, 'model', model, 'input', input_usd_per_mtok::float8, 'output', output_usd_per_mtok::float8,
               'cache_read', cache_read_usd_per_mtok::float8, 'cache_write', cache_write_usd_per_mtok::float8,
               'context_tokens', context_tokens, 'tiers', tiers)), '[]')
      from model_prices
$$;

revoke execute on function trunkline.limits_changed(), trunkline.key_erased(), trunkline.period_start(text, timestamptz),
    trunkline.period_end(text, timestamptz), trunkline.user_limits(uuid, uuid, uuid, text), trunkline.limits_json(trunkline.limits),
    trunkline.grant_of(bigint, bigint, bigint, bigint), trunkline.gateway_lease(uuid, int, jsonb),
    trunkline.limits_of(uuid, text, text), trunkline.gateway_release(uuid), trunkline.charge(uuid[], uuid[], text[], timestamptz[], numeric[], uuid[]) from public;
grant execute on function trunkline.gateway_lease(uuid, int, jsonb), trunkline.gateway_release(uuid) to trunkline_gateway;
grant execute on function trunkline.period_start(text, timestamptz), trunkline.period_end(text, timestamptz),
    trunkline.limits_json(trunkline.limits), trunkline.limits_of(uuid, text, text) to trunkline_control;
