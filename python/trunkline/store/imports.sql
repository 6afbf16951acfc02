-- Writing what a file holds into a store. $1 is the tenant, $2 the store; ids and times are the file's.

-- name: select_paths
-- The paths that are taken.
select id, path from trunkline.memories where tenant_id = $1 and store_id = $2;

-- name: select_foreign
-- Those of the memories $3 and versions $4 that belong to another store of the tenant.
select memory_id as id from trunkline.memory_versions where tenant_id = $1 and store_id <> $2 and memory_id = any ($3::uuid[])
 union
select id from trunkline.memories where tenant_id = $1 and store_id <> $2 and id = any ($3::uuid[])
 union
select id from trunkline.memory_versions where tenant_id = $1 and store_id <> $2 and id = any ($4::uuid[]);

-- name: select_versions
-- The versions of these ids ($3), and those that have the same memory and number as one of them ($4, $5).
select id, memory_id, version, path, content_sha256, redacted_at, created_at
  from trunkline.memory_versions where tenant_id = $1 and store_id = $2 and id = any ($3::uuid[])
 union
select v.id, v.memory_id, v.version, v.path, v.content_sha256, v.redacted_at, v.created_at
  from unnest($4::uuid[], $5::int[]) as g (memory_id, version)
  join trunkline.memory_versions v on v.tenant_id = $1 and v.store_id = $2 and v.memory_id = g.memory_id and v.version = g.version;

-- name: insert_versions
-- Insert versions that are not there.
insert into trunkline.memory_versions (tenant_id, store_id, id, memory_id, version, operation, operations, path, content,
                                       content_sha256, content_bytes, value, states, actor_type, actor_id, session_id,
                                       event_id, created_at, redacted_at, redacted_by)
select $1, $2, v.id, v.memory_id, v.version, v.operation, v.operations, v.path, v.content, v.content_sha256,
       octet_length(v.content), case when v.block then v.content::jsonb end, v.states, v.actor_type, v.actor_id,
       v.session_id, v.event_id, v.created_at, v.redacted_at, v.redacted_by
  from jsonb_to_recordset($3) as v (id uuid, memory_id uuid, version int, operation text, operations jsonb, path text,
                                    content text, content_sha256 text, block boolean, states jsonb, actor_type text,
                                    actor_id text, session_id uuid, event_id uuid, created_at timestamptz,
                                    redacted_at timestamptz, redacted_by text);

-- name: lock_memories
-- Those of these memories ($3) that are there, locked against other writers.
select id, path, content_sha256, version, version_id from trunkline.memories
 where tenant_id = $1 and store_id = $2 and id = any ($3::uuid[])
 order by path
   for update;

-- name: last_versions
-- The number of the last version of each of these memories ($3).
select memory_id, max(version) as version from trunkline.memory_versions
 where tenant_id = $1 and store_id = $2 and memory_id = any ($3::uuid[])
 group by memory_id;

-- name: insert_memories
-- Insert memories at paths that are free.
insert into trunkline.memories (tenant_id, store_id, id, path, content, content_sha256, content_bytes, block, value, states,
                                rendering, rendered, rendered_tokens, rendered_for, render_again_at, version, version_id,
                                created_at, updated_at)
select $1, $2, m.id, m.path, m.content, m.content_sha256, octet_length(m.content), m.block,
       case when m.block is not null then m.content::jsonb end, m.states, m.rendering, m.rendered, m.rendered_tokens,
       coalesce(m.rendered_for, ''), m.render_again_at, m.version, m.version_id, m.created_at, m.updated_at
  from jsonb_to_recordset($3) as m (id uuid, path text, content text, content_sha256 text, block text, states jsonb,
                                    rendering jsonb, rendered text, rendered_tokens int, rendered_for text,
                                    render_again_at timestamptz, version int, version_id uuid, created_at timestamptz,
                                    updated_at timestamptz);

-- name: select_passages
-- Those of these passages ($3) that are there.
select id, content from trunkline.passages where tenant_id = $1 and store_id = $2 and id = any ($3::uuid[]);

-- name: insert_passages
-- Insert passages that are not there, in their order.
insert into trunkline.passages (tenant_id, store_id, id, session_id, event_id, document_id, role, content, tokens, tags,
                                metadata, created_at)
select $1, $2, p.id, p.session_id, p.event_id, p.document_id, p.role, p.content, (octet_length(p.content) + 3) / 4,
       p.tags, p.metadata, p.created_at
  from rows from (jsonb_to_recordset($3) as (id uuid, session_id uuid, event_id uuid, document_id uuid, role text,
                                             content text, tags text[], metadata jsonb, created_at timestamptz))
       with ordinality as p (id, session_id, event_id, document_id, role, content, tags, metadata, created_at, nth)
 order by p.nth;
