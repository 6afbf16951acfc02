-- Tokens: those of vaults that are being renewed, as a refresh token may be good for one use only, whoever uses it; and those of
-- repositories that sessions are given, sealed above the store.

set local role trunkline_owner;

-- There is a row while a credential's token is being renewed, and for some seconds after that has failed.
create table trunkline.credential_renewals (
    tenant_id     uuid        not null,
    credential_id uuid        not null,
    until         timestamptz not null,              -- then whoever began it is taken for dead, or the failure for stale
    error         text,                              -- null: it is under way
    foreign key (tenant_id, credential_id) references trunkline.vault_credentials (tenant_id, id) on delete cascade
);
alter table trunkline.credential_renewals add primary key (tenant_id, credential_id);

create table trunkline.repository_tokens (
    tenant_id   uuid  not null,
    session_id  uuid  not null,
    resource_id uuid  not null,
    sealed      bytea not null,
    primary key (tenant_id, session_id, resource_id),
    foreign key (tenant_id, session_id) references trunkline.sessions (tenant_id, id) on delete cascade
);

do $$
declare
    name text;
begin
    foreach name in array array['credential_renewals', 'repository_tokens'] loop
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
