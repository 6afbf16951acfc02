-- Leases: who works on a session. The lease is in the session's row, and its time is the database's.

-- name: claim
-- Take up to $3 sessions of any tenants that run while nobody works on them, for $2 seconds, with all that their turns begin with.
select * from trunkline.claim_sessions($1, $2, $3, $4);

-- name: renew
-- Hold sessions of any tenants for $5 more seconds; those that others have claimed do not come back.
select session_id, fence, interrupted from trunkline.renew_leases($1, $2, $3, $4, $5);

-- name: lock
-- The head of a session, locked for its holder; no row comes back if another has claimed it.
select status, last_seq, key_id, budget, limits, input_tokens, output_tokens, cached_tokens,
       turns, input_tokens + output_tokens + cached_tokens as tokens, cost_nano, unpriced, active_us, running_since
  from trunkline.sessions
 where tenant_id = $1 and id = $2 and lease_fence = $3 and lease_owner is not null
   for update;

-- name: select_cost
-- What a call cost, in billionths of a US dollar; null: its model has no price.
select round(u.cost_usd * 1000000000)::bigint as cost_nano from trunkline.usage u where u.tenant_id = $1 and u.id = $2;

-- name: release
-- Let a session go, unless another has claimed it meanwhile.
update trunkline.sessions set lease_owner = null, lease_until = null
 where tenant_id = $1 and id = $2 and lease_fence = $3;

-- name: select_task
-- What a worker needs to know of a session beside its log.
select * from trunkline.session_task($1, $2);

-- name: select_alive
-- Those of these sessions that are there, not archived, and not terminated.
select s.id from trunkline.sessions s
 where s.tenant_id = $1 and s.id = any ($2::uuid[]) and s.archived_at is null and s.status <> 'terminated';

-- name: wake
-- Have workers look for sessions that have something to do, once this transaction commits.
notify trunkline_work;

-- name: listen
-- Hear that there may be something to do.
listen trunkline_work;

-- name: select_log
-- Up to $4 of a session's events after number $3, oldest first, as one value.
select trunkline.log_of($1, $2, $3, $4) as log;
