-- What the runtime needs beside its tables: to find the sessions that wait for a worker, and to wake one for them.

set local role trunkline_owner;

create index sessions_running on trunkline.sessions (lease_until) where status = 'running';

-- Put a job into the queue that has a worker look at a session; one waits at most. In the transaction that gave the
-- session something to do, so that there is never one without the other.
create function trunkline.wake_session(p_queue text, p_task text, p_tenant uuid, p_session uuid) returns void
    language plpgsql
    set search_path = trunkline_queue, pg_temp
as $$
begin
    perform procrastinate_defer_jobs_v1(array[row(
        p_queue, p_task, 0, null, p_session::text,
        jsonb_build_object('tenant', p_tenant, 'session', p_session), null)::procrastinate_job_to_defer_v1]);
exception when unique_violation then
    null;                                  -- one waits already; it reads the log when its turn comes
end
$$;

-- Wake workers for sessions that run and whose lease nobody holds: their worker is gone, or the job for them was lost.
-- Looks across tenants, and tells none of them. Returns how many sessions these were.
create function trunkline.wake_abandoned_sessions(p_queue text, p_task text, p_limit int) returns int
    language plpgsql security definer
    set search_path = trunkline_queue, pg_temp
as $$
declare
    abandoned record;
    woken     int := 0;
begin
    for abandoned in
        select s.tenant_id, s.id from trunkline.sessions s
         where s.status = 'running' and (s.lease_until is null or s.lease_until < clock_timestamp())
           and not exists (select from procrastinate_jobs j where j.queueing_lock = s.id::text and j.status = 'todo')
         limit p_limit
    loop
        perform trunkline.wake_session(p_queue, p_task, abandoned.tenant_id, abandoned.id);
        woken := woken + 1;
    end loop;
    return woken;
end
$$;

revoke execute on function trunkline.wake_session(text, text, uuid, uuid),
    trunkline.wake_abandoned_sessions(text, text, int) from public;
grant execute on function trunkline.wake_session(text, text, uuid, uuid),
    trunkline.wake_abandoned_sessions(text, text, int) to trunkline_control;
