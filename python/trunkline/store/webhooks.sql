-- Webhooks. $1 is the tenant and $2 the only agent that the key may act for (null: any).

-- name: insert_webhook
-- Insert a webhook.
insert into trunkline.webhooks (tenant_id, id, agent_id, url, description, events, secret, status, created_at, updated_at)
values ($1, $2, $3, $4, $5, $6, $7, 'enabled', $8, $8);

-- name: select_webhook
-- A webhook by its id.
select id, agent_id, url, description, events, status, paused_reason, failures, created_at, updated_at
  from trunkline.webhooks where tenant_id = $1 and ($2::uuid is null or agent_id = $2) and id = $3;

-- name: list_webhooks
-- A page of webhooks, newest first, after the position ($3, $4).
select id, agent_id, url, description, events, status, paused_reason, failures, created_at, updated_at
  from trunkline.webhooks
 where tenant_id = $1 and ($2::uuid is null or agent_id = $2)
   and ($3::timestamptz is null or (created_at, id) < ($3, $4::uuid))
 order by created_at desc, id desc
 limit $5;

-- name: update_webhook
-- Change a webhook; enabled again, its failures are counted anew.
update trunkline.webhooks
   set url = $3, description = $4, events = $5, status = $6, updated_at = $7,
       paused_reason = case when $6 = 'enabled' then null else paused_reason end,
       failures = case when $6 = 'enabled' then 0 else failures end
 where tenant_id = $1 and id = $2;

-- name: lock_secret
-- What is sealed of a webhook, kept from others' changes until the transaction ends.
select secret from trunkline.webhooks where tenant_id = $1 and ($2::uuid is null or agent_id = $2) and id = $3 for update;

-- name: update_secret
-- Change what is sealed of a locked webhook.
update trunkline.webhooks set secret = $3, updated_at = $4 where tenant_id = $1 and id = $2;

-- name: delete_webhook
-- Delete a webhook with what is left to tell it.
delete from trunkline.webhooks where tenant_id = $1 and ($2::uuid is null or agent_id = $2) and id = $3 returning id;

-- name: list_deliveries
-- A page of a webhook's ($2) deliveries, newest first, after the position ($3, $4).
select id, event_id, event_type, session_id, status, attempts, next_at, answered, error, created_at, delivered_at
  from trunkline.webhook_deliveries
 where tenant_id = $1 and webhook_id = $2
   and ($3::timestamptz is null or (created_at, id) < ($3, $4::uuid))
 order by created_at desc, id desc
 limit $5;

-- name: claim
-- Take up to $1 deliveries of any tenant that are due, for $2 seconds.
select * from trunkline.claim_webhook_deliveries($1, $2);

-- name: delivered
-- Note that a delivery ($2) was taken, and that its webhook ($3) answers.
with ended as (
    update trunkline.webhook_deliveries
       set status = 'delivered', next_at = null, answered = $4, error = null, delivered_at = $5
     where tenant_id = $1 and id = $2
)
update trunkline.webhooks set failures = 0 where tenant_id = $1 and id = $3 and failures > 0;

-- name: not_delivered
-- Note that an attempt of a delivery ($2) failed; with $6, when the next is. $7: why its webhook ($3) is paused.
with ended as (
    update trunkline.webhook_deliveries
       set status = case when $6::timestamptz is null then 'failed' else 'pending' end, next_at = $6, answered = $4, error = $5
     where tenant_id = $1 and id = $2
)
update trunkline.webhooks
   set failures = failures + 1, status = case when $7::jsonb is null then status else 'paused' end,
       paused_reason = coalesce($7, paused_reason)
 where tenant_id = $1 and id = $3;

-- name: forget
-- Delete what was told 30 days ago, of all tenants.
select trunkline.forget_webhook_deliveries();
