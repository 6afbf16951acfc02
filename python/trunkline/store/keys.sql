-- API keys and tenants.

-- name: authenticate
-- Who a key is, by its hash; the rest of the transaction then sees that tenant's rows, and is this key's and request's in the
-- audit log.
select k.tenant_id, k.key_id, k.name, k.scopes, k.agent_id, k.models, k.user_id, k.stores, k.tools, k.bounded,
       set_config('trunkline.tenant', k.tenant_id::text, true), set_config('trunkline.key', k.key_id::text, true),
       set_config('trunkline.request', coalesce($2::text, ''), true)
  from trunkline.authenticate_key($1) k;

-- name: insert_tenant
-- Insert a tenant; no row comes back if its name is taken.
insert into trunkline.tenants (id, name, created_at) values ($1, $2, $3) on conflict (name) do nothing returning id;

-- name: select_tenant
-- A tenant's id by its name.
select id from trunkline.tenants where name = $1;

-- name: insert_key
-- Insert a key.
insert into trunkline.api_keys (tenant_id, id, name, hash, hint, scopes, agent_id, team_id, user_id, models, expires_at,
                                created_at, store_bodies, stores, tools, for_key)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16);

-- name: update_key
-- Change a key.
update trunkline.api_keys set name = $3, models = $4, expires_at = $5, store_bodies = $6, stores = $7, tools = $8
 where tenant_id = $1 and id = $2;

-- name: select_key
-- One key with its limits and what it has used.
select k.id, k.name, k.hint, k.scopes, k.agent_id, k.team_id, k.user_id, k.models as key_models, k.stores, k.tools, k.expires_at,
       k.store_bodies, k.revoked_at, k.created_at, l.budget_usd, l.budget_period, l.rpm, l.tpm, l.parallel, l.spent_usd, l.requests,
       l.period_spent_usd, l.period_starts_at, l.period_ends_at,
       (select trunkline.limits_json(u) from trunkline.limits u
         where u.tenant_id = k.tenant_id and u.kind = 'users_of_key' and u.subject = k.id::text) as users
  from trunkline.api_keys k
 cross join lateral trunkline.limits_of(k.tenant_id, 'key', k.id::text) l
 where k.tenant_id = $1 and ($2::uuid is null or k.agent_id = $2) and k.id = $3;

-- name: list_keys
-- A page of keys with their limits and what they have used, newest first, after the position ($3, $4).
select k.id, k.name, k.hint, k.scopes, k.agent_id, k.team_id, k.user_id, k.models as key_models, k.stores, k.tools, k.expires_at,
       k.store_bodies, k.revoked_at, k.created_at, l.budget_usd, l.budget_period, l.rpm, l.tpm, l.parallel, l.spent_usd, l.requests,
       l.period_spent_usd, l.period_starts_at, l.period_ends_at,
       (select trunkline.limits_json(u) from trunkline.limits u
         where u.tenant_id = k.tenant_id and u.kind = 'users_of_key' and u.subject = k.id::text) as users
  from trunkline.api_keys k
 cross join lateral trunkline.limits_of(k.tenant_id, 'key', k.id::text) l
 where k.tenant_id = $1 and ($2::uuid is null or k.agent_id = $2)
   and ($3::timestamptz is null or (k.created_at, k.id) < ($3, $4::uuid))
 order by k.created_at desc, k.id desc
 limit $5;

-- name: revoke_key
-- Revoke a key; revoked before, it keeps its time.
update trunkline.api_keys set revoked_at = coalesce(revoked_at, $4)
 where tenant_id = $1 and ($2::uuid is null or agent_id = $2) and id = $3
returning id;
