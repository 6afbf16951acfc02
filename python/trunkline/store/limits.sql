-- Limits of keys, teams and end users.

-- name: write_limits
-- Set the limits of a subject.
insert into trunkline.limits (tenant_id, kind, subject, models, expires_at, budget_usd, budget_period, rpm, tpm, parallel,
                              updated_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
    on conflict (tenant_id, kind, subject) do update
   set models = excluded.models, expires_at = excluded.expires_at, budget_usd = excluded.budget_usd,
       budget_period = excluded.budget_period, rpm = excluded.rpm, tpm = excluded.tpm, parallel = excluded.parallel,
       updated_at = excluded.updated_at;

-- name: delete_limits
-- Take a subject's limits away.
delete from trunkline.limits where tenant_id = $1 and kind = $2 and subject = $3 returning subject;

-- name: list_user_limits
-- A page of end users with limits of their own, by their ids, after $3; or the one user $2.
select l.subject as user_id, l.updated_at, o.*
  from trunkline.limits l
 cross join lateral trunkline.limits_of(l.tenant_id, 'user', l.subject) o
 where l.tenant_id = $1 and l.kind = 'user' and ($2::text is null or l.subject = $2)
   and ($3::text is null or l.subject > $3)
 order by l.subject
 limit $4;
