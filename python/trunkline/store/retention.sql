-- Retention of sessions. $1 is the tenant.

-- name: select_retention
-- For how long a tenant keeps sessions and events.
select sessions, events from trunkline.retention where tenant_id = $1;

-- name: write_retention
-- Say for how long.
insert into trunkline.retention (tenant_id, sessions, events, updated_at) values ($1, $2, $3, $4)
on conflict (tenant_id) do update set sessions = excluded.sessions, events = excluded.events, updated_at = excluded.updated_at;

-- name: retaining_tenants
-- Tenants that keep something for a time only.
select trunkline.retaining_tenants() as id;

-- name: expire_sessions
-- Look at up to $4 of a tenant's sessions after a position, and delete what is past its time; where to go on from.
select created_at, id from trunkline.expire_sessions($1, $2, $3, $4);

-- name: drop_empty_events
-- Drop months of events of which nothing is left.
select trunkline.drop_empty_events() as dropped;
