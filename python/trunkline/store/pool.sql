-- name: set_tenant
-- Bind the running transaction to one tenant; row level security reads it.
select set_config('trunkline.tenant', $1, true);
