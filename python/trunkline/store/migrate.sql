-- name: state
-- What this database was last brought to; fails where Trunkline has never been.
select (select version_num from trunkline.alembic_version) as schema_version,
       (select coalesce(jsonb_object_agg(name, version), '{}') from trunkline.catalogue_versions) as catalogues,
       (select bool_and(rolcanlogin) from pg_roles where rolname in ('trunkline_gateway', 'trunkline_control'))
           as roles_log_in;

-- name: rights
-- What the migrating login may do here.
select r.rolsuper or r.rolcreaterole
           or (select count(*) = 3 from pg_roles
                where rolname in ('trunkline_owner', 'trunkline_gateway', 'trunkline_control')) as makes_roles,
       has_database_privilege(current_database(), 'create') as creates_in_database,
       exists (select from pg_extension where extname = 'vector') as has_vector,
       exists (select from pg_available_extensions where name = 'vector') as offers_vector
  from pg_roles r where r.rolname = current_user;

-- name: create_vector
-- Enable pgvector in this database.
create extension if not exists vector;

-- name: limit_waiting
-- Do not wait for others for ever.
set lock_timeout = '60s';

-- name: lock
-- Be the only one who migrates this database, until this connection closes.
select pg_advisory_lock(hashtext('trunkline migrate'));

-- name: create_schema
-- The schema must be there before the table of versions in it; the first migration gives it to its owner.
create schema if not exists trunkline;

-- name: leave_role
-- End the role that a migration took on: its version is written by the migrating login.
set local role none;

-- name: become_owner
-- Take on the owner's role until the transaction ends.
set local role trunkline_owner;

-- name: let_gateway_log_in
-- The embedded server's roles log in by name; the socket's folder guards them.
alter role trunkline_gateway login;

-- name: let_control_log_in
-- As the gateway's.
alter role trunkline_control login;

-- name: ensure_partitions
-- Make the partitions of the coming months.
select trunkline.ensure_partitions();

-- name: set_catalogue_version
-- Note which version of a package's data is loaded.
insert into trunkline.catalogue_versions (name, version) values ($1, $2)
    on conflict (name) do update set version = excluded.version;

-- name: database_exists
-- Whether the cluster has a database of this name.
select exists (select from pg_database where datname = $1) as database_exists;

-- name: create_database
-- Make a database; the name is filled in as an identifier.
create database {name};
