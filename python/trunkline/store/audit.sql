-- The audit log. Nothing here writes it: the tables do.

-- name: list_entries
-- A page of what was changed, newest first, before the position ($2, $3).
select a.id, a.created_at, a.action, a.resource_type, a.resource_id, a.name, a.changed, a.key_id, a.request_id
  from trunkline.audit_log a
 where a.tenant_id = $1
   and ($2::timestamptz is null or (a.created_at, a.id) < ($2, $3::uuid))
   and ($4::text is null or a.resource_type = $4)
   and ($5::text is null or a.resource_id = $5)
   and ($6::uuid is null or a.key_id = $6)
   and ($7::timestamptz is null or a.created_at >= $7)
   and ($8::timestamptz is null or a.created_at < $8)
 order by a.created_at desc, a.id desc
 limit $9;

-- name: digest_of_user
-- What stands for an end user in the log.
select encode(trunkline.erasure_digest($1, 'user', $2), 'hex') as digest;

-- name: forget
-- Forget what is older than $1 days, of all tenants.
select trunkline.forget_audit($1) as deleted;
