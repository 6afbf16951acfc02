-- Agents and their versions. $1 is the tenant and $2, in what reads, the only agent that the key may act for (null: any).

-- name: insert_agent
-- Insert an agent; no row comes back if another, not archived, has its name.
insert into trunkline.agents (tenant_id, id, name, current_version, created_at, updated_at, applied)
values ($1, $2, $3, 1, $4, $4, $5)
on conflict (tenant_id, name) where archived_at is null do nothing
returning id;

-- name: insert_version
-- Insert a version of an agent.
insert into trunkline.agent_versions (tenant_id, agent_id, version, definition, model, instructions, memory_enabled,
                                      memory_refresh, memory_fail, recall_tokens, memory_tools, created_at,
                                      memory_budget, prompt_cache_ttl, cache_control, keep_sessions, keep_events,
                                      context_tokens, context_turns, redact, redact_log, stores, consolidate)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23);

-- name: insert_blocks
-- Insert the blocks of a version, in their order, from an array of objects by column name.
insert into trunkline.agent_blocks (tenant_id, agent_id, version, position, name, scope, description, schema,
                                    empty_rendered, empty_tokens, head, fields, keep_order, required, token_budget,
                                    priority, options, digest, owner_id, writable)
select $1, $2, $3, row_number() over (), b.name, b.scope, b.description, b.schema, b.empty_rendered, b.empty_tokens,
       b.head, b.fields, b.keep_order, b.required, b.token_budget, b.priority, b.options, b.digest, b.owner_id, b.writable
  from jsonb_to_recordset($4) as b(name text, scope text, description text, schema jsonb, empty_rendered text,
                                   empty_tokens int, head text, fields text[], keep_order text[], required text[],
                                   token_budget int, priority int, options jsonb, digest text, owner_id uuid,
                                   writable boolean);

-- name: select_agent
-- One version of an agent, by the agent's id or its name; the current version where none is given.
select a.id, v.version, v.definition, a.created_at, v.created_at as updated_at, a.archived_at, a.applied
  from trunkline.agents a
  join trunkline.agent_versions v on v.tenant_id = a.tenant_id and v.agent_id = a.id
                                 and v.version = coalesce($5::int, a.current_version)
 where a.tenant_id = $1 and ($2::uuid is null or a.id = $2)
   and (a.id = $3::uuid or ($4::text is not null and a.name = $4 and a.archived_at is null));

-- name: lock_agent
-- Keep others from changing an agent until the transaction ends.
select id from trunkline.agents where tenant_id = $1 and ($2::uuid is null or id = $2) and id = $3 for update;

-- name: advance_agent
-- Make a version just inserted the current one, under its name.
update trunkline.agents set current_version = $3, name = $4, updated_at = $5 where tenant_id = $1 and id = $2;

-- name: archive_agent
-- Archive an agent; archived before, it keeps its time.
update trunkline.agents set archived_at = coalesce(archived_at, $4), updated_at = $4
 where tenant_id = $1 and ($2::uuid is null or id = $2) and id = $3
returning id;

-- name: list_agents
-- A page of agents, newest first, after the position ($3, $4).
select a.id, v.version, v.definition, a.created_at, v.created_at as updated_at, a.archived_at, a.applied
  from trunkline.agents a
  join trunkline.agent_versions v on v.tenant_id = a.tenant_id and v.agent_id = a.id and v.version = a.current_version
 where a.tenant_id = $1 and ($2::uuid is null or a.id = $2)
   and ($3::timestamptz is null or (a.created_at, a.id) < ($3, $4::uuid))
   and ($5 or a.archived_at is null)
   and ($6::text is null or a.name = $6)
   and ($7::timestamptz is null or a.created_at >= $7)
   and ($8::timestamptz is null or a.created_at <= $8)
 order by a.created_at desc, a.id desc
 limit $9;

-- name: list_versions
-- A page of an agent's versions, newest first, before version $4.
select a.id, v.version, v.definition, a.created_at, v.created_at as updated_at, a.archived_at, a.applied
  from trunkline.agents a
  join trunkline.agent_versions v on v.tenant_id = a.tenant_id and v.agent_id = a.id
 where a.tenant_id = $1 and ($2::uuid is null or a.id = $2) and a.id = $3
   and ($4::int is null or v.version < $4)
 order by v.version desc
 limit $5;
