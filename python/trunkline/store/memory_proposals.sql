-- Proposals for memory. $1 is the tenant; $2, $3 and $4 in what reads: the only agent, user and scopes that the key reaches (null: any).

-- name: insert
-- Insert a proposal.
insert into trunkline.memory_proposals (tenant_id, id, agent_id, session_id, user_id, run_id, block, scope, operations, events, reason,
                                        status, error, version_id, created_at, decided_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16);

-- name: list
-- A page of proposals, newest first, after the position ($9, $10): of an agent ($5), a session ($6), a user ($7), a status ($8).
select id, agent_id, session_id, user_id, run_id, block, scope, operations, events, reason, status, error, version_id, created_at,
       decided_at, decided_by
  from trunkline.memory_proposals
 where tenant_id = $1 and ($2::uuid is null or agent_id = $2) and ($3::text is null or user_id = $3)
   and ($4::text[] is null or scope = any ($4))
   and ($5::uuid is null or agent_id = $5) and ($6::uuid is null or session_id = $6) and ($7::text is null or user_id = $7)
   and ($8::text is null or status = $8)
   and ($9::timestamptz is null or (created_at, id) < ($9, $10::uuid))
 order by created_at desc, id desc
 limit $11;

-- name: select
-- A proposal by its id ($5).
select id, agent_id, session_id, user_id, run_id, block, scope, operations, events, reason, status, error, version_id, created_at,
       decided_at, decided_by
  from trunkline.memory_proposals
 where tenant_id = $1 and ($2::uuid is null or agent_id = $2) and ($3::text is null or user_id = $3)
   and ($4::text[] is null or scope = any ($4)) and id = $5;

-- name: lock_session
-- Keep the session of a proposal ($2) there, as those do who work on it.
select s.id from trunkline.sessions s
  join trunkline.memory_proposals p on p.tenant_id = s.tenant_id and p.session_id = s.id
 where p.tenant_id = $1 and p.id = $2
   for key share of s;

-- name: lock
-- Keep others from deciding on a proposal ($2).
select status from trunkline.memory_proposals where tenant_id = $1 and id = $2 for update;

-- name: decide
-- Note what was decided on a proposal ($2), when ($4), by which key ($5), and the version that it made ($6).
update trunkline.memory_proposals set status = $3, decided_at = $4, decided_by = $5, version_id = $6
 where tenant_id = $1 and id = $2;
