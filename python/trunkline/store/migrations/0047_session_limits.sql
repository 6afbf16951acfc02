-- What a session may use and has used: money, model calls, tokens and time.

set local role trunkline_owner;

alter table trunkline.sessions
    add column budget        jsonb,                            -- as on the wire; null: none
    add column limits        jsonb,                            -- {max_turns, max_tokens, max_active_seconds}, those that there are
    add column turns         int         not null default 0,   -- answers of models to the runtime
    add column cost_nano     bigint      not null default 0,   -- of these, in billionths of a US dollar
    add column unpriced      boolean     not null default false, -- one of them has no price
    add column active_us     bigint      not null default 0,   -- in `running`, up to when it last began to run
    add column running_since timestamptz;
update trunkline.sessions set running_since = updated_at where status = 'running';

-- Reckon how long a session runs, whoever sets its status.
create function trunkline.session_ran() returns trigger
    language plpgsql
    set search_path = trunkline, pg_temp
as $$
begin
    if old.running_since is not null then
        new.active_us := old.active_us
                         + greatest(0, extract(epoch from new.updated_at - old.running_since) * 1000000)::bigint;
    end if;
    new.running_since := case when new.status = 'running' then new.updated_at end;
    return new;
end
$$;
create trigger ran before update of status on trunkline.sessions
    for each row when (old.status is distinct from new.status) execute function trunkline.session_ran();

-- As before, with one more that webhooks are told.
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
                       ('session.status_idle', 'session.requires_action'), ('session.status_idle', 'session.budget_reached'),
                       ('session.updated', 'session.updated'), ('session.status_rescheduled', 'session.status_rescheduled'),
                       ('session.status_terminated', 'session.status_terminated')) as k (type, told) on k.type = e.type
          join sessions s on s.tenant_id = e.tenant_id and s.id = e.session_id and e.created_at >= s.created_at
          join webhooks w on w.tenant_id = e.tenant_id and w.status = 'enabled'
                         and (w.agent_id is null or w.agent_id = s.agent_id)
                         and (w.events is null or k.told = any (w.events))
         where k.told not in ('session.requires_action', 'session.budget_reached')
            or 'session.' || (e.payload #>> '{stop_reason,type}') = k.told;
    end if;
    return null;
end
$$;
