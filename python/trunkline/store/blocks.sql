-- The blocks that agents declare. $1 is the tenant and $2 the only agent that the key may act for (null: any).

-- name: select_agent_memory
-- The current version of an agent, by its id or its name, with the blocks that it declares.
select a.id as agent_id, v.version, v.recall_tokens,
       coalesce(jsonb_agg(jsonb_build_object('name', b.name, 'scope', b.scope, 'description', b.description,
                                             'schema', b.schema::text, 'options', b.options::text,
                                             'digest', b.digest, 'owner_id', b.owner_id,
                                             'writable', b.writable) order by b.position)
                filter (where b.name is not null
                          and (b.owner_id is null or trunkline.shares($1, b.owner_id, b.name, a.id) is not null)), '[]')
           as blocks
  from trunkline.agents a
  join trunkline.agent_versions v on v.tenant_id = a.tenant_id and v.agent_id = a.id and v.version = a.current_version
  left join trunkline.agent_blocks b on b.tenant_id = v.tenant_id and b.agent_id = v.agent_id and b.version = v.version
 where a.tenant_id = $1 and ($2::uuid is null or a.id = $2)
   and (a.id = $3::uuid or ($4::text is not null and a.name = $4 and a.archived_at is null))
 group by a.id, v.version, v.recall_tokens;

-- name: lock_schema
-- Keep writers of an agent's blocks waiting until the transaction ends.
select pg_advisory_xact_lock(trunkline.schema_lock($1));

-- name: share_schema
-- Keep an agent's schemas as they are until the transaction ends.
select pg_advisory_xact_lock_shared(trunkline.schema_lock($1));

-- name: select_stored
-- A page of what is stored of a block of scope $3 and name $4 (of agent $2; of the tenant, for org), in the order of its
-- owners, after owner $5; locked against other writers.
select s.owner_key, m.id, m.store_id, m.path, m.content, m.content_sha256, m.content_bytes, m.block, m.states, m.version,
       m.version_id, m.created_at, m.updated_at
  from trunkline.memory_stores s
  join trunkline.memories m on m.tenant_id = s.tenant_id and m.store_id = s.id and m.path = '/blocks/' || $4
 where s.tenant_id = $1 and s.managed and s.scope = $3 and ($3 = 'org' or s.agent_id = $2) and s.owner_key > $5
   and m.block is not null
 order by s.owner_key
 limit 500
   for update of m;

-- name: select_declaration
-- The latest declaration of a block of this scope and name: by agent $4, or (null, for org) by any agent of the tenant.
select b.name, b.scope, b.description, b.schema::text as schema, b.options::text as options, b.digest,
       b.owner_id, b.writable
  from trunkline.agents a
  join trunkline.agent_blocks b on b.tenant_id = a.tenant_id and b.agent_id = a.id and b.version = a.current_version
 where a.tenant_id = $1 and b.scope = $2 and b.name = $3 and b.owner_id is null and ($4::uuid is null or a.id = $4)
 order by a.updated_at desc, a.id
 limit 1;
