-- Files: what clients upload for sessions to read, and what sessions make. The bytes lie in pieces, so that neither an upload
-- nor a download holds a whole file in Postgres' memory.

set local role trunkline_owner;

create table trunkline.files (
    tenant_id  uuid        not null references trunkline.tenants (id),
    id         uuid        not null,
    agent_id   uuid,                                 -- whose it is alone; null: all agents'
    session_id uuid,                                 -- made by this session; null: uploaded
    filename   text        not null check (length(filename) between 1 and 500),
    mime_type  text        not null check (length(mime_type) between 1 and 255),
    size_bytes bigint      not null check (size_bytes >= 0),
    created_at timestamptz not null,
    expires_at timestamptz,                          -- null: kept until deleted
    foreign key (tenant_id, agent_id) references trunkline.agents (tenant_id, id) on delete cascade,
    foreign key (tenant_id, session_id) references trunkline.sessions (tenant_id, id) on delete cascade
);
create index files_recent on trunkline.files (tenant_id, created_at);
create index files_session on trunkline.files (tenant_id, session_id) where session_id is not null;
create index files_expiry on trunkline.files (expires_at) where expires_at is not null;
alter table trunkline.files add primary key (tenant_id, id);

create table trunkline.file_pieces (
    tenant_id uuid  not null,
    file_id   uuid  not null,
    position  int   not null,                        -- from 0
    bytes     bytea not null,
    primary key (tenant_id, file_id, position),
    foreign key (tenant_id, file_id) references trunkline.files (tenant_id, id) on delete cascade
);
alter table trunkline.file_pieces alter column bytes set storage external;  -- files are mostly compressed already

do $$
declare
    name text;
begin
    foreach name in array array['files', 'file_pieces'] loop
        execute format('alter table trunkline.%I enable row level security', name);
        execute format('alter table trunkline.%I force row level security', name);
        execute format('create policy one_tenant on trunkline.%I to trunkline_control
                        using (tenant_id = trunkline.current_tenant()) with check (tenant_id = trunkline.current_tenant())',
                       name);
        execute format('create policy owner on trunkline.%I to trunkline_owner using (true) with check (true)', name);
        execute format('grant select, insert, delete on trunkline.%I to trunkline_control', name);
    end loop;
end
$$;

-- Delete up to `p_limit` files that are past their time; return how many went. Looks across tenants, and tells of none.
create function trunkline.expire_files(p_limit int) returns bigint
    language sql security definer
    set search_path = trunkline, pg_temp
as $$
    with gone as (
        delete from files f
         using (select o.tenant_id, o.id from files o where o.expires_at < now() limit p_limit for update skip locked) as past
         where f.tenant_id = past.tenant_id and f.id = past.id
        returning 1
    )
    select count(*) from gone
$$;

revoke execute on function trunkline.expire_files(int) from public;
grant execute on function trunkline.expire_files(int) to trunkline_control;
