-- Environments: where sessions run; and what else a session was started with.

set local role trunkline_owner;

-- `config` is the wire's, every value written out. The tenant's default environment has no row: its id is the tenant's.
create table trunkline.environments (
    tenant_id   uuid        not null references trunkline.tenants (id),
    id          uuid        not null,
    name        text        not null check (length(name) between 1 and 256),
    description text,
    config      jsonb       not null,
    metadata    jsonb       not null default '{}',
    created_at  timestamptz not null,
    updated_at  timestamptz not null,
    archived_at timestamptz
);
create unique index environments_name on trunkline.environments (tenant_id, name) where archived_at is null;
create index environments_recent on trunkline.environments (tenant_id, created_at);
alter table trunkline.environments add primary key (tenant_id, id);

alter table trunkline.sessions
    add column environment_id uuid,                  -- null: the default one
    add column vault_ids      uuid[] not null default '{}',
    add column deployment_id  uuid,                  -- what started it; null: a client did
    add foreign key (tenant_id, environment_id) references trunkline.environments (tenant_id, id);
create index sessions_environment on trunkline.sessions (tenant_id, environment_id) where environment_id is not null;
create index sessions_deployment on trunkline.sessions (tenant_id, deployment_id) where deployment_id is not null;

alter table trunkline.environments enable row level security;
alter table trunkline.environments force row level security;
create policy one_tenant on trunkline.environments to trunkline_control
    using (tenant_id = trunkline.current_tenant()) with check (tenant_id = trunkline.current_tenant());
create policy owner on trunkline.environments to trunkline_owner using (true) with check (true);
grant select, insert, update, delete on trunkline.environments to trunkline_control;
