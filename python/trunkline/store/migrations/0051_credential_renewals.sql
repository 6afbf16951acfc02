-- Access tokens of vaults that are being renewed: a refresh token may be good for one use only, whoever uses it.

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
alter table trunkline.credential_renewals enable row level security;
alter table trunkline.credential_renewals force row level security;
create policy one_tenant on trunkline.credential_renewals to trunkline_control
    using (tenant_id = trunkline.current_tenant()) with check (tenant_id = trunkline.current_tenant());
create policy owner on trunkline.credential_renewals to trunkline_owner using (true) with check (true);
grant select, insert, update, delete on trunkline.credential_renewals to trunkline_control;
