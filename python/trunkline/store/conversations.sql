-- Conversations: sessions as OpenAI's clients see them. $1 is the tenant and $2 the session, which the caller holds locked.

-- name: select_said
-- The events of a session that are items, with their chain, in order.
select e.seq, e.type, e.payload, e.chain
  from trunkline.events e
 where e.tenant_id = $1 and e.session_id = $2
   and e.type in ('user.message', 'agent.message', 'agent.custom_tool_use', 'user.custom_tool_result')
 order by e.seq;

-- name: update_chains
-- Write the chain of events by their numbers.
update trunkline.events e set chain = n.chain
  from unnest($3::bigint[], $4::bytea[]) as n(seq, chain)
 where e.tenant_id = $1 and e.session_id = $2 and e.seq = n.seq and e.chain is distinct from n.chain;

-- name: update_head_chain
-- Write the hash of a session's last message; null: it has none.
update trunkline.sessions set head_chain = $3 where tenant_id = $1 and id = $2;

-- name: delete_event
-- Delete an event for good; its number is not given again.
delete from trunkline.events where tenant_id = $1 and session_id = $2 and id = $3;

-- name: delete_passage
-- Delete what recall kept of an event.
delete from trunkline.passages where tenant_id = $1 and session_id = $2 and event_id = $3;

-- name: select_item
-- The event of an id, if it is an item.
select e.id, e.seq, e.type, e.payload, e.created_at, e.processed_at
  from trunkline.events e
 where e.tenant_id = $1 and e.session_id = $2 and e.id = $3
   and e.type in ('user.message', 'agent.message', 'agent.custom_tool_use', 'user.custom_tool_result');
