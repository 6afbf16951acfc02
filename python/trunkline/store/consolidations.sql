-- Consolidation of sessions. $1 is the tenant and $2 the session, where nothing else is said.

-- name: claim
-- Take up to $2 sessions of any tenant that are due, for $3 seconds, in the name of worker $1.
select tenant_id, session_id from trunkline.claim_consolidations($1, $2, $3);

-- name: lock_session
-- Keep a session there: locked before its consolidation, in the order of those who append to its log.
select id from trunkline.sessions where tenant_id = $1 and id = $2 for key share;

-- name: lock
-- How far a session is, locked, to the worker ($3) that has claimed it, with what its agent says of consolidation now.
select c.agent_id, c.done_seq, c.failures, c.run_id, c.run_to_seq, c.run_day, c.run_tokens, c.run, s.user_id, s.key_id,
       case when a.archived_at is null and s.archived_at is null then v.consolidate end as consolidate,
       k.stores, k.tools
  from trunkline.consolidations c
  join trunkline.sessions s on s.tenant_id = c.tenant_id and s.id = c.session_id
  join trunkline.agents a on a.tenant_id = c.tenant_id and a.id = c.agent_id
  join trunkline.agent_versions v on v.tenant_id = a.tenant_id and v.agent_id = a.id and v.version = a.current_version
  left join trunkline.api_keys k on k.tenant_id = s.tenant_id and k.id = s.key_id
 where c.tenant_id = $1 and c.session_id = $2 and c.claimed_by = $3
   for update of c;

-- name: select_said
-- What was said in a session after event $3, oldest first.
select e.id, e.seq, e.type, e.payload, e.created_at, e.processed_at
  from trunkline.events e
 where e.tenant_id = $1 and e.session_id = $2 and e.seq > $3 and e.type in ('user.message', 'agent.message')
 order by e.seq
 limit $4;

-- name: draw
-- Draw $4 tokens on an agent's ($2) day $3; no row comes back where that would be more than $5.
insert into trunkline.consolidation_tokens as t (tenant_id, agent_id, day, tokens)
select $1, $2, $3, $4 where $4::bigint <= $5::bigint
on conflict (tenant_id, agent_id, day) do update set tokens = t.tokens + excluded.tokens
   where t.tokens + excluded.tokens <= $5
returning tokens;

-- name: settle
-- Give back, of an agent's ($2) day $3, what was drawn and not used ($4).
update trunkline.consolidation_tokens set tokens = tokens - $4 where tenant_id = $1 and agent_id = $2 and day = $3;

-- name: begin_run
-- Note what a model is about to be asked.
update trunkline.consolidations
   set run_id = $3, run_to_seq = $4, run_day = $5, run_tokens = $6, run = $7
 where tenant_id = $1 and session_id = $2;

-- name: finish
-- Let a session go, up to event $3, with no run under way; it is due again ($4) where more was said.
update trunkline.consolidations c
   set done_seq = $3, failures = 0, error = null, not_before = null, claimed_by = null,
       run_id = null, run_to_seq = null, run_day = null, run_tokens = null, run = null,
       turns = more.turns,
       due_at = case when more.turns = 0 and not more.any_said then null
                     when $4 or more.turns >= c.after_turns then clock_timestamp()
                     else clock_timestamp() + make_interval(secs => $5) end
  from (select count(*) filter (where e.type = 'user.message') as turns, count(*) > 0 as any_said
          from trunkline.events e
         where e.tenant_id = $1 and e.session_id = $2 and e.seq > $3 and e.type in ('user.message', 'agent.message')) as more
 where c.tenant_id = $1 and c.session_id = $2;

-- name: put_off
-- Let a session go for a while, with no run under way: until $3, null until something is said. $4: why; $5: failures so far.
update trunkline.consolidations
   set due_at = $3, not_before = $3, error = $4, failures = $5, claimed_by = null,
       run_id = null, run_to_seq = null, run_day = null, run_tokens = null, run = null
 where tenant_id = $1 and session_id = $2;
