-- Checkpoints of a thread, what their channels hold, and their pending writes. $1 is the tenant, $2 the thread.

-- name: put_checkpoint
-- Keep a checkpoint, in the place of one of its id.
insert into trunkline.checkpoints (tenant_id, thread_id, namespace, checkpoint_id, parent_id, kind, payload, metadata, channels,
                                   created_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
on conflict (tenant_id, thread_id, namespace, checkpoint_id) do update
   set parent_id = excluded.parent_id, kind = excluded.kind, payload = excluded.payload, metadata = excluded.metadata,
       channels = excluded.channels;

-- name: put_channels
-- Keep what channels hold; a version that is there stays.
insert into trunkline.checkpoint_channels (tenant_id, thread_id, namespace, channel, version, kind, payload)
select $1, $2, $3, v.channel, v.version, v.kind, v.payload
  from unnest($4::text[], $5::text[], $6::text[], $7::bytea[]) as v (channel, version, kind, payload)
on conflict (tenant_id, thread_id, namespace, channel, version) do nothing;

-- name: put_writes
-- Keep what tasks wrote. A place that is taken stays, but for those below 0.
insert into trunkline.checkpoint_writes (tenant_id, thread_id, namespace, checkpoint_id, task_id, task_path, idx, channel, kind,
                                         payload)
select $1, $2, $3, $4, $5, $6, w.idx, w.channel, w.kind, w.payload
  from unnest($7::int[], $8::text[], $9::text[], $10::bytea[]) as w (idx, channel, kind, payload)
on conflict (tenant_id, thread_id, namespace, checkpoint_id, task_id, idx) do update
   set task_path = excluded.task_path, channel = excluded.channel, kind = excluded.kind, payload = excluded.payload
 where excluded.idx < 0;

-- name: select_state
-- How many bytes a checkpoint has with what its channels hold.
select (octet_length(c.payload)
        + coalesce((select sum(octet_length(b.payload))
                      from jsonb_each_text(c.channels) as v (channel, version)
                      join trunkline.checkpoint_channels b
                        on b.tenant_id = $1 and b.thread_id = $2 and b.namespace = c.namespace and b.channel = v.channel
                       and b.version = v.version), 0))::bigint as bytes
  from trunkline.checkpoints c
 where c.tenant_id = $1 and c.thread_id = $2 and c.namespace = $3 and c.checkpoint_id = $4;

-- name: select_written
-- How many writes wait at a checkpoint, and their bytes.
select coalesce(sum(octet_length(payload)), 0)::bigint as bytes, count(*) as writes
  from trunkline.checkpoint_writes
 where tenant_id = $1 and thread_id = $2 and namespace = $3 and checkpoint_id = $4;

-- name: list_checkpoints
-- A page of checkpoints, newest first, after the position ($3, $4); `bytes` is the size of each with all that belongs to it.
-- $5: of a namespace; $6: of this id; $7: before it; $8: with these members in their metadata, null where there is none.
select c.namespace, c.checkpoint_id, c.parent_id, c.kind, c.payload, c.metadata, c.channels, c.created_at,
       (octet_length(c.payload)
        + coalesce((select sum(octet_length(b.payload))
                      from jsonb_each_text(c.channels) as v (channel, version)
                      join trunkline.checkpoint_channels b
                        on b.tenant_id = $1 and b.thread_id = $2 and b.namespace = c.namespace and b.channel = v.channel
                       and b.version = v.version), 0)
        + coalesce((select sum(octet_length(w.payload)) from trunkline.checkpoint_writes w
                     where w.tenant_id = $1 and w.thread_id = $2 and w.namespace = c.namespace
                       and w.checkpoint_id = c.checkpoint_id), 0))::bigint as bytes
  from trunkline.checkpoints c
 where c.tenant_id = $1 and c.thread_id = $2
   and ($3::text is null or (c.checkpoint_id, c.namespace) < ($3, $4::text))
   and ($5::text is null or c.namespace = $5)
   and ($6::text is null or c.checkpoint_id = $6)
   and ($7::text is null or c.checkpoint_id < $7)
   and ($8::jsonb is null or not exists (
           select from jsonb_each($8::jsonb) as f (name, value)
            where coalesce(c.metadata -> f.name, 'null') is distinct from f.value))
 order by c.checkpoint_id desc, c.namespace desc
 limit $9;

-- name: select_channels
-- What the channels of these checkpoints hold, each version once.
select distinct on (b.namespace, b.channel, b.version) b.namespace, b.channel, b.version, b.kind, b.payload
  from unnest($3::text[], $4::text[]) as k (namespace, checkpoint_id)
  join trunkline.checkpoints c
    on c.tenant_id = $1 and c.thread_id = $2 and c.namespace = k.namespace and c.checkpoint_id = k.checkpoint_id
 cross join lateral jsonb_each_text(c.channels) as v (channel, version)
  join trunkline.checkpoint_channels b
    on b.tenant_id = $1 and b.thread_id = $2 and b.namespace = c.namespace and b.channel = v.channel and b.version = v.version
 order by b.namespace, b.channel, b.version;

-- name: select_writes
-- The pending writes of these checkpoints, in the order in which a step applies them.
select w.namespace, w.checkpoint_id, w.task_id, w.task_path, w.idx, w.channel, w.kind, w.payload
  from unnest($3::text[], $4::text[]) as k (namespace, checkpoint_id)
  join trunkline.checkpoint_writes w
    on w.tenant_id = $1 and w.thread_id = $2 and w.namespace = k.namespace and w.checkpoint_id = k.checkpoint_id
 order by w.task_path, w.task_id, w.idx;

-- name: prune_checkpoints
-- Delete all but the newest checkpoint of each namespace, and what it is rebuilt from: of channels that are kept as changes since
-- a snapshot, which its metadata names, the ancestors back to the snapshot.
with recursive kept as (
    select n.namespace, n.checkpoint_id, n.parent_id,
           array(select d.channel from jsonb_object_keys(coalesce(n.metadata -> 'counters_since_delta_snapshot', '{}')) as d (channel)
                  where not exists (select from trunkline.checkpoint_channels b
                                     where b.tenant_id = $1 and b.thread_id = $2 and b.namespace = n.namespace
                                       and b.channel = d.channel and b.version = n.channels ->> d.channel)) as lacking
      from (select distinct on (c.namespace) c.namespace, c.checkpoint_id, c.parent_id, c.metadata, c.channels
              from trunkline.checkpoints c where c.tenant_id = $1 and c.thread_id = $2
             order by c.namespace, c.checkpoint_id desc) as n
    union all
    select p.namespace, p.checkpoint_id, p.parent_id,
           array(select d.channel from unnest(k.lacking) as d (channel)
                  where not exists (select from trunkline.checkpoint_channels b
                                     where b.tenant_id = $1 and b.thread_id = $2 and b.namespace = p.namespace
                                       and b.channel = d.channel and b.version = p.channels ->> d.channel))
      from kept k
      join trunkline.checkpoints p
        on p.tenant_id = $1 and p.thread_id = $2 and p.namespace = k.namespace and p.checkpoint_id = k.parent_id
     where cardinality(k.lacking) > 0 and p.checkpoint_id < k.checkpoint_id
), gone as (
    delete from trunkline.checkpoints c
     where c.tenant_id = $1 and c.thread_id = $2
       and not exists (select from kept k where k.namespace = c.namespace and k.checkpoint_id = c.checkpoint_id)
    returning c.namespace, c.checkpoint_id
), writes as (
    delete from trunkline.checkpoint_writes w using gone g
     where w.tenant_id = $1 and w.thread_id = $2 and w.namespace = g.namespace and w.checkpoint_id = g.checkpoint_id
)
select count(*) as deleted from gone;

-- name: lock_threads_of_runs
-- The threads that have checkpoints of these runs ($3), in one order; nobody else writes to them. $2: the key's only agent; $4: a user's.
select t.id from trunkline.threads t
 where t.tenant_id = $1 and ($2::uuid is null or t.agent_id = $2) and ($4::text is null or t.user_id = $4)
   and exists (select from trunkline.checkpoints c
                where c.tenant_id = $1 and c.thread_id = t.id and c.metadata ? 'run_id' and c.metadata ->> 'run_id' = any ($3::text[]))
 order by t.id
   for update;

-- name: delete_runs
-- Delete the checkpoints of these runs ($3) from a thread, with their writes.
with gone as (
    delete from trunkline.checkpoints c
     where c.tenant_id = $1 and c.thread_id = $2 and c.metadata ? 'run_id' and c.metadata ->> 'run_id' = any ($3::text[])
    returning c.namespace, c.checkpoint_id
), writes as (
    delete from trunkline.checkpoint_writes w using gone g
     where w.tenant_id = $1 and w.thread_id = $2 and w.namespace = g.namespace and w.checkpoint_id = g.checkpoint_id
)
select count(*) as deleted from gone;

-- name: delete_unused_channels
-- Delete what channels held at versions that no checkpoint of a locked thread has any more.
delete from trunkline.checkpoint_channels b
 where b.tenant_id = $1 and b.thread_id = $2
   and not exists (select from trunkline.checkpoints c
                    where c.tenant_id = $1 and c.thread_id = $2 and c.namespace = b.namespace
                      and c.channels ->> b.channel = b.version);

-- name: copy_checkpoints
-- Copy a thread's checkpoints to another ($3); what is there already stays.
insert into trunkline.checkpoints (tenant_id, thread_id, namespace, checkpoint_id, parent_id, kind, payload, metadata, channels,
                                   created_at)
select tenant_id, $3, namespace, checkpoint_id, parent_id, kind, payload, metadata, channels, created_at
  from trunkline.checkpoints where tenant_id = $1 and thread_id = $2
on conflict do nothing;

-- name: copy_channels
-- Copy what a thread's channels hold to another thread ($3).
insert into trunkline.checkpoint_channels (tenant_id, thread_id, namespace, channel, version, kind, payload)
select tenant_id, $3, namespace, channel, version, kind, payload
  from trunkline.checkpoint_channels where tenant_id = $1 and thread_id = $2
on conflict do nothing;

-- name: copy_writes
-- Copy a thread's pending writes to another thread ($3).
insert into trunkline.checkpoint_writes (tenant_id, thread_id, namespace, checkpoint_id, task_id, idx, task_path, channel, kind,
                                         payload)
select tenant_id, $3, namespace, checkpoint_id, task_id, idx, task_path, channel, kind, payload
  from trunkline.checkpoint_writes where tenant_id = $1 and thread_id = $2
on conflict do nothing;
