-- Deployments and their runs. $1 is the tenant and $2, in what reads, the only agent that the key may act for (null: any).

-- name: insert_deployment
-- Insert a deployment.
insert into trunkline.deployments (tenant_id, id, agent_id, agent_version, environment_id, name, description, vault_ids,
                                   resources, initial_events, metadata, schedule, status, next_run_at, due_at, created_at,
                                   updated_at, key_id, budget)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, 'active', $13, $14, $15, $15, $16, $17);

-- name: select_deployment
-- A deployment.
select d.id, d.agent_id, d.agent_version, d.environment_id, d.name, d.description, d.vault_ids, d.resources,
       d.initial_events, d.metadata, d.schedule, d.status, d.paused_reason, d.failures, d.next_run_at, d.due_at,
       d.last_run_at, d.created_at, d.updated_at, d.archived_at, d.key_id, d.budget
  from trunkline.deployments d
 where d.tenant_id = $1 and ($2::uuid is null or d.agent_id = $2) and d.id = $3;

-- name: lock_deployment
-- A deployment, kept from others' changes until the transaction ends.
select d.id, d.agent_id, d.agent_version, d.environment_id, d.name, d.description, d.vault_ids, d.resources,
       d.initial_events, d.metadata, d.schedule, d.status, d.paused_reason, d.failures, d.next_run_at, d.due_at,
       d.last_run_at, d.created_at, d.updated_at, d.archived_at, d.key_id, d.budget
  from trunkline.deployments d
 where d.tenant_id = $1 and ($2::uuid is null or d.agent_id = $2) and d.id = $3
   for update;

-- name: lock_due
-- A deployment that is due at $3, locked; no row comes back if another worker has it, or has fired it.
select d.id, d.agent_id, d.agent_version, d.environment_id, d.name, d.description, d.vault_ids, d.resources,
       d.initial_events, d.metadata, d.schedule, d.status, d.paused_reason, d.failures, d.next_run_at, d.due_at,
       d.last_run_at, d.created_at, d.updated_at, d.archived_at, d.key_id, d.budget
  from trunkline.deployments d
 where d.tenant_id = $1 and d.id = $2 and d.due_at <= $3
   for update skip locked;

-- name: update_deployment
-- Write a locked deployment.
update trunkline.deployments
   set agent_id = $3, agent_version = $4, environment_id = $5, name = $6, description = $7, vault_ids = $8, resources = $9,
       initial_events = $10, metadata = $11, schedule = $12, status = $13, paused_reason = $14, failures = $15,
       next_run_at = $16, due_at = $17, last_run_at = $18, updated_at = $19, archived_at = $20, key_id = $21,
       budget = $22
 where tenant_id = $1 and id = $2;

-- name: list_deployments
-- A page of deployments, newest first, after the position ($3, $4).
select d.id, d.agent_id, d.agent_version, d.environment_id, d.name, d.description, d.vault_ids, d.resources,
       d.initial_events, d.metadata, d.schedule, d.status, d.paused_reason, d.failures, d.next_run_at, d.due_at,
       d.last_run_at, d.created_at, d.updated_at, d.archived_at, d.key_id, d.budget
  from trunkline.deployments d
 where d.tenant_id = $1 and ($2::uuid is null or d.agent_id = $2)
   and ($3::timestamptz is null or (d.created_at, d.id) < ($3, $4::uuid))
   and ($5 or d.archived_at is null)
   and ($6::uuid is null or d.agent_id = $6)
   and ($7::text is null or d.status = $7)
   and ($8::timestamptz is null or d.created_at >= $8)
   and ($9::timestamptz is null or d.created_at <= $9)
 order by d.created_at desc, d.id desc
 limit $10;

-- name: due
-- Deployments of any tenant that are due at $1, the longest first.
select tenant_id, id from trunkline.due_deployments($1, $2);

-- name: insert_run
-- Insert a run; no row comes back if its time on the schedule was run before.
insert into trunkline.deployment_runs (tenant_id, id, deployment_id, agent_id, agent_version, scheduled_at, session_id, error,
                                       created_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
on conflict (tenant_id, deployment_id, scheduled_at) where scheduled_at is not null do nothing
returning id;

-- name: select_run
-- A run.
select r.id, r.deployment_id, r.agent_id, r.agent_version, r.scheduled_at, r.session_id, r.error, r.created_at
  from trunkline.deployment_runs r
 where r.tenant_id = $1 and ($2::uuid is null or r.agent_id = $2) and r.id = $3;

-- name: list_runs
-- A page of runs, newest first, after the position ($3, $4).
select r.id, r.deployment_id, r.agent_id, r.agent_version, r.scheduled_at, r.session_id, r.error, r.created_at
  from trunkline.deployment_runs r
 where r.tenant_id = $1 and ($2::uuid is null or r.agent_id = $2)
   and ($3::timestamptz is null or (r.created_at, r.id) < ($3, $4::uuid))
   and ($5::uuid is null or r.deployment_id = $5)
   and ($6::boolean is null or (r.error is not null) = $6)
   and ($7::boolean is null or (r.scheduled_at is not null) = $7)
   and ($8::timestamptz is null or r.created_at > $8)
   and ($9::timestamptz is null or r.created_at >= $9)
   and ($10::timestamptz is null or r.created_at < $10)
   and ($11::timestamptz is null or r.created_at <= $11)
 order by r.created_at desc, r.id desc
 limit $12;

-- name: select_working
-- Whether the session of a deployment's newest run, by hand or not, still works.
select s.status in ('running', 'rescheduling') as working
  from trunkline.deployment_runs r
  join trunkline.sessions s on s.tenant_id = r.tenant_id and s.id = r.session_id
 where r.tenant_id = $1 and r.deployment_id = $2 and r.session_id is not null
 order by r.created_at desc, r.id desc
 limit 1;
