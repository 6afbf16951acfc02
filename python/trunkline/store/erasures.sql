-- Erasures of users and sessions. $1 is the tenant.

-- name: erase
-- Erase what is kept of a user ($1) or a session ($2), and tell how much that was; the tenant is the transaction's.
select trunkline.erase($1, $2, $3, $4, $5, $6) as erased;

-- name: erase_from_store
-- Erase what is below a path, was said in a session or a time, or all, of a store ($1), and tell how much that was.
select trunkline.erase_from_store($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) as erased;

-- name: list_erasures
-- A page of erasures, newest first, after the position ($3, $4), to a key of one agent ($2) those that it asked for; $5 and
-- $6: of one kind and subject.
select id, kind, agent_id, key_id, erased, erased_at
  from trunkline.erasures
 where tenant_id = $1 and ($2::uuid is null or agent_id = $2)
   and ($3::timestamptz is null or (erased_at, id) < ($3, $4::uuid))
   and ($5::text is null or (kind = $5 and digest = trunkline.erasure_digest($1, $5, $6)))
 order by erased_at desc, id desc
 limit $7;
