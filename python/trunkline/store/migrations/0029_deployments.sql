-- Deployments: an agent with what it is told, started by a schedule or by hand; and their runs.

set local role trunkline_owner;

create table trunkline.deployments (
    tenant_id      uuid        not null references trunkline.tenants (id),
    id             uuid        not null,
    agent_id       uuid        not null,
    agent_version  int         not null,
    environment_id uuid,                             -- null: the default one
    name           text        not null check (length(name) between 1 and 256),
    description    text,
    vault_ids      uuid[]      not null default '{}',
    resources      jsonb       not null default '[]',
    initial_events jsonb       not null,
    metadata       jsonb       not null default '{}',
    schedule       jsonb,                            -- null: by hand alone
    status         text        not null check (status in ('active', 'paused')),
    paused_reason  jsonb,
    failures       int         not null default 0,   -- scheduled runs in a row that started no session
    next_run_at    timestamptz,                      -- what the schedule says; null: it has no further time
    due_at         timestamptz,                      -- when to look: `next_run_at` and its jitter; null: never
    last_run_at    timestamptz,
    created_at     timestamptz not null,
    updated_at     timestamptz not null,
    archived_at    timestamptz,
    check ((status = 'paused') = (paused_reason is not null)),
    check (due_at is null or (status = 'active' and archived_at is null and next_run_at is not null)),
    foreign key (tenant_id, agent_id, agent_version)
        references trunkline.agent_versions (tenant_id, agent_id, version) on delete cascade,
    foreign key (tenant_id, environment_id) references trunkline.environments (tenant_id, id)
);
create index deployments_recent on trunkline.deployments (tenant_id, created_at);
create index deployments_environment on trunkline.deployments (tenant_id, environment_id) where environment_id is not null;
-- Across tenants: however many schedules there are, a look reads those that are due.
create index deployments_due on trunkline.deployments (due_at) where due_at is not null;
alter table trunkline.deployments add primary key (tenant_id, id);

create table trunkline.deployment_runs (
    tenant_id     uuid        not null,
    id            uuid        not null,
    deployment_id uuid        not null,
    agent_id      uuid        not null,
    agent_version int         not null,
    scheduled_at  timestamptz,                       -- null: run by hand
    session_id    uuid,
    error         jsonb,                             -- {type, message}; null: a session was started
    created_at    timestamptz not null,
    check ((session_id is null) = (error is not null)),
    foreign key (tenant_id, deployment_id) references trunkline.deployments (tenant_id, id) on delete cascade
);
-- One run a time, whoever sees that it is due.
create unique index deployment_runs_once on trunkline.deployment_runs (tenant_id, deployment_id, scheduled_at)
    where scheduled_at is not null;
create index deployment_runs_of on trunkline.deployment_runs (tenant_id, deployment_id, created_at);
create index deployment_runs_recent on trunkline.deployment_runs (tenant_id, created_at);
alter table trunkline.deployment_runs add primary key (tenant_id, id);

do $$
declare
    name text;
begin
    foreach name in array array['deployments', 'deployment_runs'] loop
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
revoke update, delete on trunkline.deployment_runs from trunkline_control;

-- Up to `p_limit` deployments of any tenant that are due. Whoever fires one locks it and looks again.
create function trunkline.due_deployments(p_at timestamptz, p_limit int) returns table (tenant_id uuid, id uuid)
    language sql stable security definer
    set search_path = trunkline, pg_temp
as $$
    select d.tenant_id, d.id from deployments d where d.due_at <= p_at order by d.due_at limit p_limit
$$;

revoke execute on function trunkline.due_deployments(timestamptz, int) from public;
grant execute on function trunkline.due_deployments(timestamptz, int) to trunkline_control;
