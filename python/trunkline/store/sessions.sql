-- Sessions: the heads of event logs. $1 is the tenant and $2 the only agent that the key may act for (null: any).

-- name: insert_session
-- Insert a session that the API's client made.
insert into trunkline.sessions (tenant_id, id, agent_id, agent_version, user_id, title, metadata, resources, origin,
                                status, root_id, created_at, updated_at, environment_id, vault_ids, deployment_id, key_id,
                                budget, limits)
values ($1, $2, $3, $4, $5, $6, $7, $8, 'api', 'idle', $2, $9, $9, $10, $11, $12, $13, $14, $15);

-- name: insert_fork
-- Insert a session that shares the log of another ($3) up to event number $4; triggers copy the blocks that are the other's
-- own, what is attached to it, and what its prompts begin with.
insert into trunkline.sessions (tenant_id, id, agent_id, agent_version, user_id, title, metadata, origin, status, last_seq,
                                head_chain, root_id, parent_id, parent_seq, created_at, updated_at, environment_id, vault_ids,
                                budget, limits)
select s.tenant_id, $2, s.agent_id, s.agent_version, s.user_id, $5, $6, s.origin, 'idle', $4,
       (select e.chain from trunkline.events e
         where e.tenant_id = $1 and e.session_id = $3 and e.seq <= $4 and e.chain is not null
         order by e.seq desc limit 1),
       s.root_id, s.id, $4, $7, $7, s.environment_id, s.vault_ids, s.budget, s.limits
  from trunkline.sessions s where s.tenant_id = $1 and s.id = $3;

-- name: copy_events
-- Copy events of a session ($2) into its fork ($3), numbers, times and chain as they are; ids and payloads are given.
insert into trunkline.events (tenant_id, session_id, seq, id, type, payload, chain, call_id, created_at, processed_at)
select $1, $3, e.seq, n.id, e.type, n.payload, e.chain, e.call_id, e.created_at, e.processed_at
  from unnest($4::bigint[], $5::uuid[], $6::jsonb[]) as n(seq, id, payload)
  join trunkline.events e on e.tenant_id = $1 and e.session_id = $2 and e.seq = n.seq;

-- name: select_session
-- A session with the definition of the agent version it is pinned to.
select s.id, s.agent_id, s.agent_version, v.definition, s.user_id, s.title, s.metadata, s.resources, s.origin, s.status,
       s.last_seq, s.parent_id, s.input_tokens, s.output_tokens, s.cached_tokens, s.turns,
       s.cost_nano, s.unpriced, s.active_us, s.running_since, s.budget, s.limits, s.environment_id,
       s.vault_ids, s.deployment_id, s.created_at, s.updated_at, s.archived_at
  from trunkline.sessions s
  join trunkline.agent_versions v on v.tenant_id = s.tenant_id and v.agent_id = s.agent_id and v.version = s.agent_version
 where s.tenant_id = $1 and ($2::uuid is null or s.agent_id = $2) and s.id = $3;

-- name: lock_session
-- A session's head, locked: who holds it is the only one to append.
select s.status, s.last_seq, s.archived_at, s.title, s.metadata, s.resources, s.budget, s.limits,
       s.turns, s.input_tokens + s.output_tokens + s.cached_tokens as tokens, s.cost_nano, s.unpriced, s.active_us,
       s.running_since,
       (select v.redact from trunkline.agents a
          join trunkline.agent_versions v on v.tenant_id = a.tenant_id and v.agent_id = a.id and v.version = a.current_version
         where a.tenant_id = $1 and a.id = s.agent_id and v.redact_log) as redact
  from trunkline.sessions s
 where s.tenant_id = $1 and ($2::uuid is null or s.agent_id = $2) and s.id = $3
   for update of s;

-- name: select_head
-- The number of a session's last event.
select s.last_seq from trunkline.sessions s
 where s.tenant_id = $1 and ($2::uuid is null or s.agent_id = $2) and s.id = $3;

-- name: select_heads
-- The numbers of the last events of many sessions.
select s.id, s.last_seq from trunkline.sessions s where s.tenant_id = $1 and s.id = any ($2::uuid[]);

-- name: advance_session
-- Move a locked session's head past events just appended; where $6, it works in the name of the key $7 from now on.
update trunkline.sessions set last_seq = $3, status = $4, updated_at = $5, key_id = case when $6 then $7::uuid else key_id end
 where tenant_id = $1 and id = $2;

-- name: update_session
-- Write a locked session's title and metadata.
update trunkline.sessions set title = $3, metadata = $4, updated_at = $5 where tenant_id = $1 and id = $2;

-- name: update_limits
-- Write what a locked session may use.
update trunkline.sessions set budget = $3, limits = $4 where tenant_id = $1 and id = $2;

-- name: update_resources
-- Write what is attached to a locked session.
update trunkline.sessions set resources = $3, updated_at = $4 where tenant_id = $1 and id = $2;

-- name: archive_session
-- Archive a session; archived before, it keeps its time.
update trunkline.sessions set archived_at = coalesce(archived_at, $4), updated_at = $4
 where tenant_id = $1 and ($2::uuid is null or agent_id = $2) and id = $3
returning id;

-- name: list_newest
-- A page of sessions, newest first, after the position ($3, $4).
select s.id, s.agent_id, s.agent_version, v.definition, s.user_id, s.title, s.metadata, s.resources, s.origin, s.status,
       s.last_seq, s.parent_id, s.input_tokens, s.output_tokens, s.cached_tokens, s.turns,
       s.cost_nano, s.unpriced, s.active_us, s.running_since, s.budget, s.limits, s.environment_id,
       s.vault_ids, s.deployment_id, s.created_at, s.updated_at, s.archived_at
  from trunkline.sessions s
  join trunkline.agent_versions v on v.tenant_id = s.tenant_id and v.agent_id = s.agent_id and v.version = s.agent_version
 where s.tenant_id = $1 and ($2::uuid is null or s.agent_id = $2)
   and ($3::timestamptz is null or (s.created_at, s.id) < ($3, $4::uuid))
   and ($5 or s.archived_at is null)
   and ($6::uuid is null or s.agent_id = $6)
   and ($7::int is null or s.agent_version = $7)
   and ($8::text[] is null or s.status = any ($8))
   and ($9::text is null or s.user_id = $9)
   and ($10::jsonb is null or s.resources @> $10)
   and ($11::timestamptz is null or s.created_at > $11)
   and ($12::timestamptz is null or s.created_at >= $12)
   and ($13::timestamptz is null or s.created_at < $13)
   and ($14::timestamptz is null or s.created_at <= $14)
   and ($15::uuid is null or s.deployment_id = $15)
 order by s.created_at desc, s.id desc
 limit $16;

-- name: list_oldest
-- The same, oldest first.
select s.id, s.agent_id, s.agent_version, v.definition, s.user_id, s.title, s.metadata, s.resources, s.origin, s.status,
       s.last_seq, s.parent_id, s.input_tokens, s.output_tokens, s.cached_tokens, s.turns,
       s.cost_nano, s.unpriced, s.active_us, s.running_since, s.budget, s.limits, s.environment_id,
       s.vault_ids, s.deployment_id, s.created_at, s.updated_at, s.archived_at
  from trunkline.sessions s
  join trunkline.agent_versions v on v.tenant_id = s.tenant_id and v.agent_id = s.agent_id and v.version = s.agent_version
 where s.tenant_id = $1 and ($2::uuid is null or s.agent_id = $2)
   and ($3::timestamptz is null or (s.created_at, s.id) > ($3, $4::uuid))
   and ($5 or s.archived_at is null)
   and ($6::uuid is null or s.agent_id = $6)
   and ($7::int is null or s.agent_version = $7)
   and ($8::text[] is null or s.status = any ($8))
   and ($9::text is null or s.user_id = $9)
   and ($10::jsonb is null or s.resources @> $10)
   and ($11::timestamptz is null or s.created_at > $11)
   and ($12::timestamptz is null or s.created_at >= $12)
   and ($13::timestamptz is null or s.created_at < $13)
   and ($14::timestamptz is null or s.created_at <= $14)
   and ($15::uuid is null or s.deployment_id = $15)
 order by s.created_at, s.id
 limit $16;

-- name: select_stores
-- The memory stores of these ids that can still be attached; those of $4 whosever they are.
select m.id, m.name, m.description
  from trunkline.memory_stores m
 where m.tenant_id = $1 and ($2::uuid is null or m.agent_id = $2 or m.id = any ($4::uuid[]))
   and m.id = any ($3::uuid[]) and m.archived_at is null;

-- name: delete_events
-- Delete a session's events.
delete from trunkline.events where tenant_id = $1 and session_id = $2;

-- name: delete_passages
-- Delete what recall kept of a session.
delete from trunkline.passages where tenant_id = $1 and session_id = $2;

-- name: delete_stores
-- Delete the memory that is the session's own.
delete from trunkline.memory_stores where tenant_id = $1 and managed and scope = 'session' and subject = $2::uuid::text;

-- name: delete_session
-- Delete a session's head, and tell streams that wait for its events.
with gone as (delete from trunkline.sessions where tenant_id = $1 and id = $2 returning id)
select pg_notify('trunkline_events', id::text) from gone;

-- name: expire_prompts
-- Delete what prompts began with, of sessions that nobody has called for a day, in all tenants.
select trunkline.expire_prompts($1) as deleted;
