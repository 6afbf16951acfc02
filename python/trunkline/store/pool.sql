-- name: set_tenant
-- Bind the running transaction to one tenant; row level security reads it.
select set_config('trunkline.tenant', $1, true);

-- name: set_tenant_while_awake
-- The same, and have the transaction rolled back once its client has left it alone for so long.
select set_config('trunkline.tenant', $1, true), set_config('idle_in_transaction_session_timeout', $2, true);

-- name: begin_snapshot
-- Read in this transaction what stands at its beginning, and write nothing.
set transaction isolation level repeatable read, read only;

-- name: give_up_after
-- Wait in this transaction for no lock longer than so long.
select set_config('lock_timeout', $1, true);
