-- Webhooks: who is told of what happens to sessions, and what they were told.

set local role trunkline_owner;

create table trunkline.webhooks (
    tenant_id     uuid        not null references trunkline.tenants (id),
    id            uuid        not null,
    agent_id      uuid,                              -- whose sessions; null: all
    url           text        not null check (length(url) <= 2048),
    description   text        not null default '',
    events        text[],                            -- null: all
    secret        bytea       not null,              -- sealed
    status        text        not null check (status in ('enabled', 'paused')),
    paused_reason jsonb,                             -- {type, message}; null: by hand, or not paused
    failures      int         not null default 0,    -- attempts in a row that failed
    created_at    timestamptz not null,
    updated_at    timestamptz not null,
    check (status = 'paused' or paused_reason is null),
    foreign key (tenant_id, agent_id) references trunkline.agents (tenant_id, id) on delete cascade
);
alter table trunkline.webhooks add primary key (tenant_id, id);

-- What is said is made of these columns when it is sent; nothing that anybody said is in it.
create table trunkline.webhook_deliveries (
    tenant_id    uuid        not null,
    id           uuid        not null,
    webhook_id   uuid        not null,
    event_id     uuid        not null,               -- the same in each attempt and for each webhook
    event_type   text        not null,
    session_id   uuid        not null,
    status       text        not null check (status in ('pending', 'delivered', 'failed')),
    attempts     int         not null default 0,
    next_at      timestamptz,                        -- null: no further attempt
    answered     int,                                -- the last answer's status
    error        text,                               -- why the last attempt failed
    created_at   timestamptz not null,
    delivered_at timestamptz,
    check ((status = 'pending') = (next_at is not null)),
    foreign key (tenant_id, webhook_id) references trunkline.webhooks (tenant_id, id) on delete cascade
);
create index webhook_deliveries_of on trunkline.webhook_deliveries (tenant_id, webhook_id, created_at);
create index webhook_deliveries_due on trunkline.webhook_deliveries (next_at) where next_at is not null;
create index webhook_deliveries_age on trunkline.webhook_deliveries using brin (created_at);
alter table trunkline.webhook_deliveries add primary key (tenant_id, id);

do $$
declare
    name text;
begin
    foreach name in array array['webhooks', 'webhook_deliveries'] loop
        execute format('alter table trunkline.%I enable row level security', name);
        execute format('alter table trunkline.%I force row level security', name);
        execute format('create policy one_tenant on trunkline.%I to trunkline_control
                        using (tenant_id = trunkline.current_tenant()) with check (tenant_id = trunkline.current_tenant())',
                       name);
        execute format('create policy owner on trunkline.%I to trunkline_owner using (true) with check (true)', name);
        execute format('grant select, insert, update, delete on trunkline.%I to trunkline_control', name);
    end loop;
end
$$;
revoke insert, delete on trunkline.webhook_deliveries from trunkline_control;

-- New events, for streams that wait for them, and for webhooks. A fork's copies keep their times, which are before its own:
-- they were told when they happened.
create or replace function trunkline.events_appended() returns trigger
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
begin
    perform pg_notify('trunkline_events', session_id::text) from (select distinct session_id from appended) as sessions;
    if exists (select from webhooks w where w.status = 'enabled' and w.tenant_id in (select a.tenant_id from appended a)) then
        insert into webhook_deliveries (tenant_id, id, webhook_id, event_id, event_type, session_id, status, next_at, created_at)
        select e.tenant_id, gen_random_uuid(), w.id, md5(e.id::text || k.told)::uuid, k.told, e.session_id, 'pending',
               clock_timestamp(), e.created_at
          from appended e
          join (values ('session.status_running', 'session.status_run_started'), ('session.status_idle', 'session.status_idled'),
                       ('session.status_idle', 'session.requires_action'), ('session.updated', 'session.updated'),
                       ('session.status_rescheduled', 'session.status_rescheduled'),
                       ('session.status_terminated', 'session.status_terminated')) as k (type, told) on k.type = e.type
          join sessions s on s.tenant_id = e.tenant_id and s.id = e.session_id and e.created_at >= s.created_at
          join webhooks w on w.tenant_id = e.tenant_id and w.status = 'enabled'
                         and (w.agent_id is null or w.agent_id = s.agent_id)
                         and (w.events is null or k.told = any (w.events))
         where k.told <> 'session.requires_action' or e.payload #>> '{stop_reason,type}' = 'requires_action';
    end if;
    return null;
end
$$;

-- Take up to `p_limit` deliveries of any tenant that are due, for `p_seconds`: whoever took them and dies leaves them to others.
create function trunkline.claim_webhook_deliveries(p_limit int, p_seconds int)
    returns table (tenant_id uuid, id uuid, webhook_id uuid, event_id uuid, event_type text, session_id uuid, attempts int,
                   created_at timestamptz, url text, secret bytea)
    language sql security definer
    set search_path = trunkline, pg_temp
as $$
    with due as (
        select d.tenant_id, d.id, w.url, w.secret
          from webhook_deliveries d
          join webhooks w on w.tenant_id = d.tenant_id and w.id = d.webhook_id and w.status = 'enabled'
         where d.next_at <= clock_timestamp()
         order by d.next_at limit p_limit
           for update of d skip locked
    )
    update webhook_deliveries d
       set attempts = d.attempts + 1, next_at = clock_timestamp() + make_interval(secs => p_seconds)
      from due
     where d.tenant_id = due.tenant_id and d.id = due.id
    returning d.tenant_id, d.id, d.webhook_id, d.event_id, d.event_type, d.session_id, d.attempts, d.created_at, due.url, due.secret
$$;

-- Delete deliveries that ended 30 days ago, of all tenants, and those that waited as long for a paused webhook.
create function trunkline.forget_webhook_deliveries() returns void
    language sql security definer
    set search_path = trunkline, pg_temp
as $$ delete from webhook_deliveries d where d.created_at < now() - interval '30 days' $$;

revoke execute on function trunkline.claim_webhook_deliveries(int, int), trunkline.forget_webhook_deliveries() from public;
grant execute on function trunkline.claim_webhook_deliveries(int, int), trunkline.forget_webhook_deliveries() to trunkline_control;
