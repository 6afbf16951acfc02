-- Events: a session is the list of them, by seq.

-- name: insert_events
-- Append events after number $3; the caller holds the session's lock.
insert into trunkline.events (tenant_id, session_id, seq, id, type, payload, created_at, processed_at)
select $1, $2, $3::bigint + e.nth, e.id, e.type, e.payload, $8, e.processed_at
  from unnest($4::uuid[], $5::text[], $6::jsonb[], $7::timestamptz[])
       with ordinality as e(id, type, payload, processed_at, nth);

-- name: list_oldest
-- A page of events, oldest first, after number $3; $9 is the only agent that the key may act for (null: any).
select e.id, e.seq, e.type, e.payload, e.created_at, e.processed_at
  from trunkline.events e
 where e.tenant_id = $1 and e.session_id = $2 and ($3::bigint is null or e.seq > $3)
   and ($4::text[] is null or e.type = any ($4))
   and ($5::timestamptz is null or coalesce(e.processed_at, e.created_at) > $5)
   and ($6::timestamptz is null or coalesce(e.processed_at, e.created_at) >= $6)
   and ($7::timestamptz is null or coalesce(e.processed_at, e.created_at) < $7)
   and ($8::timestamptz is null or coalesce(e.processed_at, e.created_at) <= $8)
   and ($9::uuid is null or exists (select from trunkline.sessions s
                                     where s.tenant_id = $1 and s.id = $2 and s.agent_id = $9))
 order by e.seq
 limit $10;

-- name: list_newest
-- A page of events, newest first, before number $3.
select e.id, e.seq, e.type, e.payload, e.created_at, e.processed_at
  from trunkline.events e
 where e.tenant_id = $1 and e.session_id = $2 and ($3::bigint is null or e.seq < $3)
   and ($4::text[] is null or e.type = any ($4))
   and ($5::timestamptz is null or coalesce(e.processed_at, e.created_at) > $5)
   and ($6::timestamptz is null or coalesce(e.processed_at, e.created_at) >= $6)
   and ($7::timestamptz is null or coalesce(e.processed_at, e.created_at) < $7)
   and ($8::timestamptz is null or coalesce(e.processed_at, e.created_at) <= $8)
   and ($9::uuid is null or exists (select from trunkline.sessions s
                                     where s.tenant_id = $1 and s.id = $2 and s.agent_id = $9))
 order by e.seq desc
 limit $10;

-- name: select_types
-- The types and numbers of a session's events by their ids.
select e.id, e.type, e.seq from trunkline.events e
 where e.tenant_id = $1 and e.session_id = $2 and e.id = any ($3::uuid[]);

-- name: listen
-- Hear of new events, and of sessions deleted: the payload is the session's id.
listen trunkline_events;

-- name: select_answered
-- Which tool calls of a session have an answer of one type already.
select distinct coalesce(e.payload ->> 'custom_tool_use_id', e.payload ->> 'tool_use_id') as answered
  from trunkline.events e
 where e.tenant_id = $1 and e.session_id = $2 and e.type = $3
   and coalesce(e.payload ->> 'custom_tool_use_id', e.payload ->> 'tool_use_id') = any ($4::text[]);

-- name: select_last_stop
-- Why a session was last idle.
select e.payload #>> '{stop_reason,type}' as reason from trunkline.events e
 where e.tenant_id = $1 and e.session_id = $2 and e.type = 'session.status_idle'
 order by e.seq desc limit 1;
