-- Idempotency keys: what a POST answered, kept for a day.

-- name: claim
-- Take a key for this transaction; no row comes back if another request took it less than a day ago.
-- A request that holds the same key at this moment is waited for.
insert into trunkline.idempotency_keys (tenant_id, key, response, created_at)
values ($1, $2, $3, $4)
on conflict (tenant_id, key) do update set response = excluded.response, created_at = excluded.created_at
 where trunkline.idempotency_keys.created_at < excluded.created_at - interval '1 day'
returning key;

-- name: select_response
-- What was kept under a key.
select response from trunkline.idempotency_keys where tenant_id = $1 and key = $2;

-- name: complete
-- Keep the answer under a key that this transaction took.
update trunkline.idempotency_keys set response = $3 where tenant_id = $1 and key = $2;

-- name: forget
-- Delete what is past its day, of all tenants; the gateway's answers too.
select trunkline.forget_answers();
