-- Memories: the current state at each path. $1 is the tenant, $2 the store.

-- name: select_memory
-- A memory by its id.
select id, store_id, path, content, content_sha256, content_bytes, block, states, version, version_id,
       created_at, updated_at
  from trunkline.memories where tenant_id = $1 and store_id = $2 and id = $3;

-- name: lock_memory
-- A memory by its id, locked against other writers.
select id, store_id, path, content, content_sha256, content_bytes, block, states, version, version_id,
       created_at, updated_at
  from trunkline.memories where tenant_id = $1 and store_id = $2 and id = $3
   for update;

-- name: lock_blocks
-- Begin writes of blocks: find or make their stores, and lock what is there. See the function.
select l.*, trunkline.redaction($1, array[l.agent_id, l.owner_id], l.store_id) as redact
  from trunkline.lock_blocks($1, $2, $3, $4, $5::jsonb, $6) as l;

-- name: lock_new_path
-- Keep others from making the block of name $2 in a store until the transaction ends.
select pg_advisory_xact_lock(hashtextextended($1::uuid::text || $2, 5));

-- name: write_memories
-- Write the next states of memories and their versions; false if the path of a new one is taken.
select trunkline.write_memories($1, $2::jsonb) as written;

-- name: delete_memory
-- Delete a memory; its versions stay.
delete from trunkline.memories where tenant_id = $1 and store_id = $2 and id = $3;

-- name: overlapping
-- The memory, other than $5, at a path, above it ($4 lists the paths above) or below it.
select id, path from trunkline.memories
 where tenant_id = $1 and store_id = $2 and id is distinct from $5::uuid
   and (path = $3 or path = any ($4::text[]) or starts_with(path, $3 || '/'))
 order by path
 limit 1;

-- name: list_memories
-- A page of the memories below prefix $3, in byte order of their paths, after $5. With a depth $4 above 0, deeper ones
-- are rolled up into the path at that depth, which then ends in a slash.
with entries as (
    select case when $4::int = 0 or cardinality(steps) <= $4 then path
                else $3 || array_to_string(steps[1:$4], '/') || '/' end collate "C" as entry,
           case when $4::int = 0 or cardinality(steps) <= $4 then id end as id
      from trunkline.memories, string_to_array(substr(path, length($3::text) + 1), '/') as steps
     where tenant_id = $1 and store_id = $2 and starts_with(path, $3::text)
), page as (
    select distinct entry, id from entries
     where $5::text is null or entry > $5::text collate "C"
     order by entry
     limit $6
)
select p.entry, m.id, m.store_id, m.path, m.content, m.content_sha256, m.content_bytes, m.block, m.states, m.version,
       m.version_id, m.created_at, m.updated_at
  from page p
  left join trunkline.memories m on m.tenant_id = $1 and m.id = p.id
 order by p.entry;

-- name: search_texts
-- Texts that have words of $4 in what they say or in their path, best first: of the stores $2, by the names $3.
select w.name, m.path,
       case when length(m.content) <= 400 then m.content
            else ts_headline('english', m.content, q.query, 'StartSel="", StopSel="", MaxFragments=2, MaxWords=40, MinWords=15')
       end as excerpt
  from unnest($2::uuid[], $3::text[]) as w(id, name)
  join trunkline.memories m on m.tenant_id = $1 and m.store_id = w.id and m.block is null
 cross join (select nullif(replace(plainto_tsquery('english', $4)::text, ' & ', ' | '), '')::tsquery as query) as q
 cross join lateral (
       select to_tsvector('english', regexp_replace(m.path, '[^[:alnum:]]+', ' ', 'g') || ' ' || m.content) as words) as d
 where d.words @@ q.query
 order by ts_rank(d.words, q.query) desc, w.name, m.path
 limit $5;

-- name: select_blocks
-- The blocks at these owners ($2) and names ($3), those that have been written.
select m.id, m.store_id, m.path, m.content, m.content_sha256, m.content_bytes, m.block, m.states, m.version,
       m.version_id, m.created_at, m.updated_at
  from unnest($2::text[], $3::text[]) as wanted(owner_key, name)
  join trunkline.memory_stores s on s.tenant_id = $1 and s.managed and s.owner_key = wanted.owner_key
  join trunkline.memories m on m.tenant_id = $1 and m.store_id = s.id and m.path = '/blocks/' || wanted.name
 where m.block is not null;
