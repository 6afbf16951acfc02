-- Leases: who works on a session. The lease is in the session's row, and its time is the database's.

-- name: claim
-- Take a session that nobody works on, for $4 seconds; the fence tells this claim from all earlier ones.
update trunkline.sessions
   set lease_owner = $3, lease_until = clock_timestamp() + $4::float8 * interval '1 second', lease_fence = lease_fence + 1
 where tenant_id = $1 and id = $2 and status <> 'terminated'
   and (lease_owner is null or lease_until < clock_timestamp())
returning lease_fence as fence;

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

-- name: advance
-- Move a locked session's head past events just appended, and count what its model call used.
update trunkline.sessions
   set last_seq = $3, status = $4, updated_at = $5, input_tokens = input_tokens + $6, output_tokens = output_tokens + $7,
       cached_tokens = cached_tokens + $8, turns = turns + $9, cost_nano = cost_nano + $10, unpriced = unpriced or $11
 where tenant_id = $1 and id = $2;

-- name: select_cost
-- What a call cost, in billionths of a US dollar; null: its model has no price.
select round(u.cost_usd * 1000000000)::bigint as cost_nano from trunkline.usage u where u.tenant_id = $1 and u.id = $2;

-- name: release
-- Let a session go, unless another has claimed it meanwhile.
update trunkline.sessions set lease_owner = null, lease_until = null
 where tenant_id = $1 and id = $2 and lease_fence = $3;

-- name: select_task
-- What a worker needs to know of a session beside its log, from the agent version that it is pinned to; what is redacted, from the
-- current one.
select s.agent_id, s.agent_version, s.user_id, v.definition, v.memory_enabled as remembers, s.key_id, k.tools, s.resources,
       s.vault_ids, e.config as environment, now.redact, now.redact_log
  from trunkline.sessions s
  join trunkline.agent_versions v on v.tenant_id = s.tenant_id and v.agent_id = s.agent_id and v.version = s.agent_version
  join trunkline.agents a on a.tenant_id = s.tenant_id and a.id = s.agent_id
  join trunkline.agent_versions now on now.tenant_id = a.tenant_id and now.agent_id = a.id and now.version = a.current_version
  left join trunkline.api_keys k on k.tenant_id = s.tenant_id and k.id = s.key_id
  left join trunkline.environments e on e.tenant_id = s.tenant_id and e.id = s.environment_id
 where s.tenant_id = $1 and s.id = $2;

-- name: select_alive
-- Those of these sessions that are there, not archived, and not terminated.
select s.id from trunkline.sessions s
 where s.tenant_id = $1 and s.id = any ($2::uuid[]) and s.archived_at is null and s.status <> 'terminated';

-- name: mark_processed
-- Note when the agent took up events that a client sent.
update trunkline.events set processed_at = $4
 where tenant_id = $1 and session_id = $2 and seq = any ($3::bigint[]) and processed_at is null;

-- name: wake
-- Have a worker look at a session once this transaction commits.
select trunkline.wake_session($1, $2, $3, $4);

-- name: wake_abandoned
-- Have workers look at up to $3 sessions that run without anybody working on them, of all tenants.
select trunkline.wake_abandoned_sessions($1, $2, $3) as woken;

-- name: select_log
-- A page of a session's events after number $3, oldest first.
select e.id, e.seq, e.type, e.payload, e.created_at, e.processed_at
  from trunkline.events e
 where e.tenant_id = $1 and e.session_id = $2 and e.seq > $3
 order by e.seq
 limit $4;
