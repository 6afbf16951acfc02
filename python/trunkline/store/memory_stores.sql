-- Memory stores. $1 is the tenant; in what a key asks for, $2 is the only agent that it may act for (null: any), beside whose
-- stores it reaches those that it was granted by id.

-- name: share_managed
-- The managed store of an owner, kept from being archived or deleted until the transaction ends.
select id, archived_at from trunkline.memory_stores
 where tenant_id = $1 and managed and owner_key = $2
   for key share;

-- name: insert_managed
-- Make the managed store of an owner, unless another has made it meanwhile.
insert into trunkline.memory_stores (tenant_id, id, name, scope, agent_id, subject, managed, created_at, updated_at)
values ($1, $2, $3, $4, $5, $6, true, $7, $7)
on conflict (tenant_id, owner_key) where managed do nothing;

-- name: select_managed
-- The id of the managed store of an owner.
select id from trunkline.memory_stores where tenant_id = $1 and managed and owner_key = $2;

-- name: select_attached
-- The stores attached to a session ($4) of an agent ($2) and user ($3), in the order in which they were attached, and then those of
-- the agent; where it is a fork that is not there yet, to the session that it parts from ($5). A session that was begun over the
-- API has those of the version that it is pinned to, any other, and none, those of the current one.
select a.name, a.id, a.writable
  from trunkline.agents o
  left join lateral (select s.id, s.agent_version, s.origin from trunkline.sessions s
                      where s.tenant_id = $1 and s.agent_id = $2 and s.user_id is not distinct from $3::text
                        and s.id in ($4::uuid, $5::uuid)
                      order by s.id = $4::uuid desc limit 1) as session on true
 cross join lateral trunkline.attached_stores(
           $1, o.id, case session.origin when 'api' then session.agent_version else o.current_version end, session.id) as a
 where o.tenant_id = $1 and o.id = $2
 order by a.nth;

-- name: insert_store
-- Insert a store that is not managed.
insert into trunkline.memory_stores (tenant_id, id, name, description, metadata, scope, agent_id, created_at,
                                     updated_at, expire_after_days, redact)
values ($1, $2, $3, $4, $5, $6, $7, $8, $8, $9, $10);

-- name: select_store
-- A store by its id.
select id, name, description, metadata, scope, agent_id, subject, managed, created_at, updated_at, archived_at,
       expire_after_days, redact
  from trunkline.memory_stores
 where tenant_id = $1 and ($2::uuid is null or agent_id = $2 or id = any ($4::uuid[])) and id = $3;

-- name: lock_store
-- A store by its id, locked against other changes of the store, and of what paths are taken in it.
select id, name, description, metadata, scope, agent_id, subject, managed, created_at, updated_at, archived_at,
       expire_after_days, redact
  from trunkline.memory_stores
 where tenant_id = $1 and ($2::uuid is null or agent_id = $2 or id = any ($4::uuid[])) and id = $3
   for no key update;

-- name: select_for_reading
-- Whether a store is attached to an agent or its sessions to be read, and nowhere there to be written.
select trunkline.attached_for_reading($1, $2, $3) as for_reading;

-- name: list_stores
-- A page of stores, newest first, after the position ($3, $4).
select id, name, description, metadata, scope, agent_id, subject, managed, created_at, updated_at, archived_at,
       expire_after_days, redact
  from trunkline.memory_stores
 where tenant_id = $1 and ($2::uuid is null or agent_id = $2 or id = any ($9::uuid[]))
   and ($9::uuid[] is null or id = any ($9) or (managed and scope = any ($10::text[])))
   and ($3::timestamptz is null or (created_at, id) < ($3, $4::uuid))
   and ($5 or archived_at is null)
   and ($6::timestamptz is null or created_at >= $6)
   and ($7::timestamptz is null or created_at <= $7)
 order by created_at desc, id desc
 limit $8;

-- name: update_store
-- Change a store's name, description, metadata, for how long it keeps what is in it, and what is redacted of that.
update trunkline.memory_stores set name = $3, description = $4, metadata = $5, updated_at = $6, expire_after_days = $7,
                                   redact = $8
 where tenant_id = $1 and id = $2;

-- name: archive_store
-- Archive a store; archived before, it keeps its time.
update trunkline.memory_stores set updated_at = case when archived_at is null then $3 else updated_at end,
                                   archived_at = coalesce(archived_at, $3)
 where tenant_id = $1 and id = $2;

-- name: delete_store
-- Delete a locked store with all its memories, versions and passages.
delete from trunkline.memory_stores where tenant_id = $1 and id = $2;

-- name: expire_memory
-- Delete up to $1 rows of each kind of one store, of any tenant, that are past its time; null when no store is left today.
select trunkline.expire_memory($1) as deleted;
