-- Threads of agent frameworks, and their items. $1 is the tenant, and $2 the only agent that the key may act for (null: any).

-- name: insert_thread
-- Insert a thread, unless there is one of this name.
insert into trunkline.threads (tenant_id, agent_id, id, framework, name, user_id, session_id, created_at)
values ($1, $2, $3, $4, $5, $6, $7, $8)
on conflict (tenant_id, agent_id, framework, name) do nothing;

-- name: select_named
-- The thread of a name, of this agent or of none, kept from being deleted in this transaction.
select id, agent_id, framework, name, user_id, session_id, created_at
  from trunkline.threads
 where tenant_id = $1 and agent_id is not distinct from $2 and framework = $3 and name = $4
   for key share;

-- name: assign_thread
-- Say whose a thread is, where nobody has said it.
update trunkline.threads set user_id = coalesce(user_id, $3), session_id = coalesce(session_id, $4)
 where tenant_id = $1 and id = $2;

-- name: select_thread
-- A thread.
select id, agent_id, framework, name, user_id, session_id, created_at
  from trunkline.threads
 where tenant_id = $1 and ($2::uuid is null or agent_id = $2) and id = $3;

-- name: keep_thread
-- A thread's id; nobody deletes it, or from it, before this transaction ends.
select id from trunkline.threads
 where tenant_id = $1 and ($2::uuid is null or agent_id = $2) and id = $3
   for key share;

-- name: lock_thread
-- The number of a thread's last item; nobody else writes to it before this transaction ends.
select last_seq from trunkline.threads
 where tenant_id = $1 and ($2::uuid is null or agent_id = $2) and id = $3
   for update;

-- name: list_threads
-- A page of threads, newest first, after the position ($3, $4). With a name ($6), the one that the key would open for the user.
select id, agent_id, framework, name, user_id, session_id, created_at
  from trunkline.threads
 where tenant_id = $1 and ($2::uuid is null or agent_id = $2)
   and ($3::timestamptz is null or (created_at, id) < ($3, $4::uuid))
   and ($5::text is null or framework = $5)
   and ($6::text is null or (name = $6 and agent_id is not distinct from $2))
   and ($7::text is null or user_id = $7 or ($6 is not null and user_id is null))
   and ($8::uuid is null or session_id = $8)
 order by created_at desc, id desc
 limit $9;

-- name: delete_thread
-- Delete a locked thread with all that is in it.
delete from trunkline.threads where tenant_id = $1 and id = $2;

-- name: insert_items
-- Append items after number $3.
insert into trunkline.thread_items (tenant_id, thread_id, seq, item, created_at)
select $1, $2, $3::bigint + i.nth, i.item::json, $5
  from unnest($4::text[]) with ordinality as i (item, nth);

-- name: advance_thread
-- Note the number of a locked thread's last item.
update trunkline.threads set last_seq = $3 where tenant_id = $1 and id = $2;

-- name: list_oldest_items
-- A page of items, oldest first, after number $3: up to $4 of them, and only the first so many as have $5 bytes together. `more`
-- tells whether others follow.
select seq, item, created_at, count(*) over () < available as more
  from (select seq, item, created_at, nth, bytes, available,
               sum(bytes) over (order by nth) as total
          from (select seq, item, created_at, octet_length(item::text) as bytes, row_number() over (order by seq) as nth,
                       count(*) over () as available
                  from (select seq, item, created_at from trunkline.thread_items
                         where tenant_id = $1 and thread_id = $2 and ($3::bigint is null or seq > $3)
                         order by seq limit $4 + 1) as page) as numbered) as summed
 where nth <= $4 and (nth = 1 or total <= $5)
 order by nth;

-- name: list_newest_items
-- The same, newest first, before number $3.
select seq, item, created_at, count(*) over () < available as more
  from (select seq, item, created_at, nth, bytes, available,
               sum(bytes) over (order by nth) as total
          from (select seq, item, created_at, octet_length(item::text) as bytes, row_number() over (order by seq desc) as nth,
                       count(*) over () as available
                  from (select seq, item, created_at from trunkline.thread_items
                         where tenant_id = $1 and thread_id = $2 and ($3::bigint is null or seq < $3)
                         order by seq desc limit $4 + 1) as page) as numbered) as summed
 where nth <= $4 and (nth = 1 or total <= $5)
 order by nth;

-- name: pop_item
-- Delete the newest item of a locked thread and return it.
delete from trunkline.thread_items
 where tenant_id = $1 and thread_id = $2
   and seq = (select max(i.seq) from trunkline.thread_items i where i.tenant_id = $1 and i.thread_id = $2)
returning seq, item, created_at;

-- name: clear_items
-- Delete all items of a locked thread.
delete from trunkline.thread_items where tenant_id = $1 and thread_id = $2;
