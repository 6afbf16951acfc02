-- Bodies of calls: written by the gateway, read and taken away by the control plane.

-- name: select_bodies
-- The bodies of a call; of another agent's to a key that acts for one agent, none. Past their time they are not shown.
select call_id, created_at, key_id, agent_id, session_id, request, response, expires_at, redacted_at, redacted_by
  from trunkline.call_bodies
 where tenant_id = $1 and call_id = $2 and ($3::uuid is null or agent_id = $3) and expires_at > $4;

-- name: redact_bodies
-- Empty the bodies of a call and keep the row; redacted before, it keeps its time.
update trunkline.call_bodies
   set request = null, response = null, redacted_at = coalesce(redacted_at, $4), redacted_by = coalesce(redacted_by, $5)
 where tenant_id = $1 and call_id = $2 and ($3::uuid is null or agent_id = $3)
returning call_id, created_at, key_id, agent_id, session_id, request, response, expires_at, redacted_at, redacted_by;

-- name: delete_bodies
-- Delete the bodies of a call.
delete from trunkline.call_bodies
 where tenant_id = $1 and call_id = $2 and ($3::uuid is null or agent_id = $3)
returning call_id;

-- name: forget
-- Delete what is past its time, of all tenants.
select trunkline.forget_bodies();
