-- Memory versions: one row a write. $1 is the tenant, $2 the store.

-- name: insert_version
-- Insert a version. $12 is a block's content once more, as its value.
insert into trunkline.memory_versions (tenant_id, store_id, id, memory_id, version, operation, operations, path,
                                       content, content_sha256, content_bytes, value, actor_type, actor_id,
                                       session_id, event_id, created_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12::text::jsonb, $13, $14,
        $15, $16, $17);

-- name: select_version
-- A version by its id.
select id, store_id, memory_id, version, operation, operations, path, content, content_sha256, content_bytes,
       value is not null as block, states, actor_type, actor_id, session_id, event_id, created_at, redacted_at, redacted_by
  from trunkline.memory_versions where tenant_id = $1 and store_id = $2 and id = $3;

-- name: list_versions
-- A page of versions, newest first, after the position ($3, $4).
select id, store_id, memory_id, version, operation, operations, path, content, content_sha256, content_bytes,
       value is not null as block, states, actor_type, actor_id, session_id, event_id, created_at, redacted_at, redacted_by
  from trunkline.memory_versions
 where tenant_id = $1 and store_id = $2
   and ($3::timestamptz is null or (created_at, id) < ($3, $4::uuid))
   and ($5::uuid is null or memory_id = $5)
   and ($6::text is null or operation = $6)
   and ($7::uuid is null or session_id = $7)
   and ($8::text is null or (actor_type = 'api_key' and actor_id = $8))
   and ($9::timestamptz is null or created_at >= $9)
   and ($10::timestamptz is null or created_at <= $10)
 order by created_at desc, id desc
 limit $11;

-- name: history
-- The versions of one memory, newest first, before version $4.
select id, store_id, memory_id, version, operation, operations, path, content, content_sha256, content_bytes,
       value is not null as block, states, actor_type, actor_id, session_id, event_id, created_at, redacted_at, redacted_by
  from trunkline.memory_versions
 where tenant_id = $1 and store_id = $2 and memory_id = $3 and ($4::int is null or version < $4)
 order by version desc
 limit $5;

-- name: version_of_number
-- The version of number $4 of a memory.
select id, store_id, memory_id, version, operation, operations, path, content, content_sha256, content_bytes,
       value is not null as block, states, actor_type, actor_id, session_id, event_id, created_at, redacted_at, redacted_by
  from trunkline.memory_versions where tenant_id = $1 and store_id = $2 and memory_id = $3 and version = $4;

-- name: latest_number
-- The number of a memory's last version, that of its deletion too.
select coalesce(max(version), 0) as number from trunkline.memory_versions where tenant_id = $1 and memory_id = $2;

-- name: blocks_as_of
-- The versions at which the blocks of these owners ($2) and names ($3) stood at a moment ($4), deleted ones too.
select wanted.name, v.id, v.store_id, v.memory_id, v.version, v.operation, v.operations, v.path, v.content, v.content_sha256,
       v.content_bytes, v.value is not null as block, v.states, v.actor_type, v.actor_id, v.session_id, v.event_id,
       v.created_at, v.redacted_at, v.redacted_by
  from unnest($2::text[], $3::text[]) as wanted(owner_key, name)
  join trunkline.memory_stores s on s.tenant_id = $1 and s.managed and s.owner_key = wanted.owner_key
 cross join lateral (
       select o.* from trunkline.memory_versions o
        where o.tenant_id = $1 and o.store_id = s.id and o.created_at <= $4
          and o.memory_id in (select p.memory_id from trunkline.memory_versions p
                               where p.tenant_id = $1 and p.store_id = s.id and p.path = '/blocks/' || wanted.name)
        order by o.created_at desc, o.version desc
        limit 1) as v;

-- name: redact_version
-- Empty a version of all that it says and keep the row; redacted before, it keeps its time.
update trunkline.memory_versions
   set path = null, content = null, content_sha256 = null, content_bytes = null, value = null, operations = null, states = null,
       redacted_at = coalesce(redacted_at, $4), redacted_by = coalesce(redacted_by, $5)
 where tenant_id = $1 and store_id = $2 and id = $3;
