-- Vaults: credentials for sessions. What is secret of one is sealed above the store, with a key that is not in the database.

set local role trunkline_owner;

create table trunkline.vaults (
    tenant_id    uuid        not null references trunkline.tenants (id),
    id           uuid        not null,
    agent_id     uuid,                               -- whose it is alone; null: all agents'
    display_name text        not null check (length(display_name) between 1 and 255),
    metadata     jsonb       not null default '{}',
    created_at   timestamptz not null,
    updated_at   timestamptz not null,
    archived_at  timestamptz,
    foreign key (tenant_id, agent_id) references trunkline.agents (tenant_id, id) on delete cascade
);
create index vaults_recent on trunkline.vaults (tenant_id, created_at);
alter table trunkline.vaults add primary key (tenant_id, id);

-- `auth` is what may be told. `target` is what it is for: an MCP server's URL, or an environment variable's name.
create table trunkline.vault_credentials (
    tenant_id    uuid        not null,
    vault_id     uuid        not null,
    id           uuid        not null,
    display_name text,
    target       text        not null,
    auth         jsonb       not null,
    sealed       bytea,                              -- null: archived, and what was secret is gone
    metadata     jsonb       not null default '{}',
    created_at   timestamptz not null,
    updated_at   timestamptz not null,
    archived_at  timestamptz,
    check ((sealed is null) = (archived_at is not null)),
    foreign key (tenant_id, vault_id) references trunkline.vaults (tenant_id, id) on delete cascade
);
create unique index vault_credentials_target on trunkline.vault_credentials (tenant_id, vault_id, target)
    where archived_at is null;
create index vault_credentials_recent on trunkline.vault_credentials (tenant_id, vault_id, created_at);
alter table trunkline.vault_credentials add primary key (tenant_id, id);

do $$
declare
    name text;
begin
    foreach name in array array['vaults', 'vault_credentials'] loop
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
