-- Responses that go on from an earlier one: its conversation, read back from the log.

set local role trunkline_owner;

-- A response's id is that of its call.
create index events_call on trunkline.events (tenant_id, call_id) where call_id is not null;

-- The session that holds the call `p_call`, or the session `p_session`, and its events up to and with that call's (all of
-- them where the session is named), as `[type, payload]` in order. No row: it is not there, or another agent's or user's.
-- Forks hold copies of what they share with their origin; any of them says the same.
create function trunkline.gateway_history(p_tenant uuid, p_agent uuid, p_user text, p_call uuid, p_session uuid)
    returns table (session_id uuid, events text)
    language plpgsql stable security definer
    set search_path = trunkline, pg_temp
as $$
declare
    v_last bigint;
begin
    if p_call is not null then
        select e.session_id, max(e.seq) into session_id, v_last
          from events e
          join sessions s on s.tenant_id = e.tenant_id and s.id = e.session_id
         where e.tenant_id = p_tenant and e.call_id = p_call and s.agent_id = p_agent and s.user_id is not distinct from p_user
         group by e.session_id, s.created_at
         order by s.created_at
         limit 1;
    else
        select s.id, s.last_seq into session_id, v_last
          from sessions s
         where s.tenant_id = p_tenant and s.id = p_session and s.agent_id = p_agent and s.user_id is not distinct from p_user;
    end if;
    if session_id is null then
        return;
    end if;
    select coalesce(jsonb_agg(jsonb_build_array(e.type, e.payload) order by e.seq), '[]')::text into events
      from events e
     where e.tenant_id = p_tenant and e.session_id = gateway_history.session_id and e.seq <= v_last
       and e.type in ('user.message', 'agent.message', 'agent.custom_tool_use', 'user.custom_tool_result');
    return next;
end
$$;

revoke execute on function trunkline.gateway_history(uuid, uuid, text, uuid, uuid) from public;
grant execute on function trunkline.gateway_history(uuid, uuid, text, uuid, uuid) to trunkline_gateway;
