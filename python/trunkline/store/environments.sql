-- Environments. $1 is the tenant.

-- name: insert_environment
-- Insert an environment; no row comes back if another, not archived, has its name.
insert into trunkline.environments (tenant_id, id, name, description, config, metadata, created_at, updated_at)
values ($1, $2, $3, $4, $5, $6, $7, $7)
on conflict (tenant_id, name) where archived_at is null do nothing
returning id;

-- name: select_environment
-- An environment by its id, or, where it is not archived, by its name.
select e.id, e.name, e.description, e.config, e.metadata, e.created_at, e.updated_at, e.archived_at
  from trunkline.environments e
 where e.tenant_id = $1 and (e.id = $2::uuid or ($3::text is not null and e.name = $3 and e.archived_at is null));

-- name: lock_environment
-- An environment, kept from others' changes until the transaction ends.
select e.id, e.name, e.description, e.config, e.metadata, e.created_at, e.updated_at, e.archived_at
  from trunkline.environments e
 where e.tenant_id = $1 and e.id = $2
   for update;

-- name: update_environment
-- Write a locked environment.
update trunkline.environments
   set name = $3, description = $4, config = $5, metadata = $6, updated_at = $7, archived_at = $8
 where tenant_id = $1 and id = $2;

-- name: delete_environment
-- Delete an environment; sessions that name it keep it from being deleted.
delete from trunkline.environments where tenant_id = $1 and id = $2 returning id;

-- name: list_environments
-- A page of environments, newest first, after the position ($2, $3).
select e.id, e.name, e.description, e.config, e.metadata, e.created_at, e.updated_at, e.archived_at
  from trunkline.environments e
 where e.tenant_id = $1
   and ($2::timestamptz is null or (e.created_at, e.id) < ($2, $3::uuid))
   and ($4 or e.archived_at is null)
 order by e.created_at desc, e.id desc
 limit $5;
