-- All that is in a store, in the order of a file, read within one snapshot. $1 is the tenant, $2 the store.

-- name: select_blocks
-- How agents declare today the blocks that the store has: for a store of the organisation the agent that was changed last.
select distinct on (b.name) b.name, b.scope, b.description, b.schema, b.options
  from trunkline.memory_stores s
  join trunkline.memories m on m.tenant_id = s.tenant_id and m.store_id = s.id and m.block is not null
  join trunkline.agents a on a.tenant_id = s.tenant_id and (s.agent_id is null or a.id = s.agent_id)
  join trunkline.agent_blocks b on b.tenant_id = a.tenant_id and b.agent_id = a.id and b.version = a.current_version
                               and b.name = m.block and b.scope = s.scope and b.owner_id is null
 where s.tenant_id = $1 and s.id = $2 and s.managed
 order by b.name, a.updated_at desc, a.id;

-- name: select_versions
-- Every version, in the order of time.
select id, memory_id, version, operation, operations, path, content, content_sha256, value is not null as block, states,
       actor_type, actor_id, session_id, event_id, created_at, redacted_at, redacted_by
  from trunkline.memory_versions where tenant_id = $1 and store_id = $2
 order by created_at, id;

-- name: select_memories
-- Every memory, by the bytes of its path.
select id, path, content, content_sha256, block, states, version, version_id, created_at, updated_at
  from trunkline.memories where tenant_id = $1 and store_id = $2
 order by path collate "C";

-- name: select_passages
-- Every passage, those of one session or document in their order.
select id, session_id, event_id, document_id, role, content, tags, metadata, created_at
  from trunkline.passages where tenant_id = $1 and store_id = $2
 order by place;
