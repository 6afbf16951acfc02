-- Retention of sessions: for how long a tenant keeps sessions that are idle, and the events of those that are not. An agent may say
-- less for its own.

set local role trunkline_owner;

-- Times in seconds; null: for ever.
create table trunkline.retention (
    tenant_id  uuid        primary key references trunkline.tenants (id),
    sessions   bigint      check (sessions > 0),
    events     bigint      check (events > 0),
    updated_at timestamptz not null
);
alter table trunkline.retention enable row level security;
alter table trunkline.retention force row level security;
create policy one_tenant on trunkline.retention to trunkline_control
    using (tenant_id = trunkline.current_tenant()) with check (tenant_id = trunkline.current_tenant());
create policy owner on trunkline.retention to trunkline_owner using (true) with check (true);
grant select, insert, update on trunkline.retention to trunkline_control;

alter table trunkline.agent_versions
    add column keep_sessions bigint check (keep_sessions > 0),  -- seconds; null: as the tenant's
    add column keep_events   bigint check (keep_events > 0);

-- Tenants that keep something for a time only.
create function trunkline.retaining_tenants() returns setof uuid
    language sql stable security definer
    set search_path = trunkline, pg_temp
as $$
    select r.tenant_id from retention r where coalesce(r.sessions, r.events) is not null
     union
    select v.tenant_id from agents a
      join agent_versions v on v.tenant_id = a.tenant_id and v.agent_id = a.id and v.version = a.current_version
     where coalesce(v.keep_sessions, v.keep_events) is not null
$$;

-- Look at up to `p_limit` sessions of a tenant by their age, after a position (null: from the first), and delete what of them is past
-- its time: at most `p_limit` events and passages, of a session that was idle for so long all that is its own, its head last.
-- Returns the position to go on from, null when there are no more. Sessions that somebody works on, or writes to at this moment,
-- are passed over.
create function trunkline.expire_sessions(p_tenant uuid, p_created timestamptz, p_id uuid, p_limit int,
                                          out created_at timestamptz, out id uuid)
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
#variable_conflict use_column
declare
    session  record;
    v_left   bigint := p_limit;
    v_rows   bigint;
    v_seq    bigint;
    v_at     timestamptz;
    v_stores uuid[];
    v_any    boolean := false;
begin
    for session in
        select s.id, s.created_at, s.agent_id, s.user_id, s.updated_at, s.status,
               coalesce(s.updated_at < now() - make_interval(secs => k.sessions), false) as over,
               now() - make_interval(secs => k.events) as events_before
          from (select o.* from sessions o
                 where o.tenant_id = p_tenant and (p_created is null or (o.created_at, o.id) > (p_created, p_id))
                 order by o.created_at, o.id limit p_limit) as s
          join agents a on a.tenant_id = p_tenant and a.id = s.agent_id
          join agent_versions v on v.tenant_id = p_tenant and v.agent_id = a.id and v.version = a.current_version
          left join retention r on r.tenant_id = p_tenant
         cross join lateral (select least(r.sessions, v.keep_sessions) as sessions, least(r.events, v.keep_events) as events) as k
         order by s.created_at, s.id
    loop
        v_any := true;
        if session.over or session.created_at < session.events_before then
            perform from sessions s
              where s.tenant_id = p_tenant and s.id = session.id and s.status in ('idle', 'terminated')
                and s.updated_at = session.updated_at
                for update skip locked;
            if found then
                v_seq := null;
                if session.over then
                    v_seq := 9223372036854775807;
                    v_at := 'infinity';
                else
                    -- Of a session that lives on whole turns go, and none that waits for an answer.
                    select e.seq, e.created_at into v_seq, v_at from events e
                     where e.tenant_id = p_tenant and e.session_id = session.id and e.created_at < session.events_before
                       and e.type = 'session.status_idle'
                       and e.payload #>> '{stop_reason,type}' is distinct from 'requires_action'
                     order by e.seq desc limit 1;
                end if;
                if v_seq is not null then
                    select coalesce(array_agg(m.id), '{}') into v_stores from memory_stores m
                     where m.tenant_id = p_tenant and m.managed
                       and m.owner_key in ('session ' || session.id::text,
                                           'user ' || session.agent_id::text || ' ' || session.user_id);
                    delete from passages p
                     where p.tenant_id = p_tenant and p.store_id = any (v_stores)
                       and p.id in (select o.id from passages o
                                     where o.tenant_id = p_tenant and o.store_id = any (v_stores) and o.session_id = session.id
                                       and o.created_at <= v_at
                                     limit v_left);
                    get diagnostics v_rows = row_count;
                    v_left := v_left - v_rows;
                    delete from events e
                     where e.tenant_id = p_tenant and e.session_id = session.id
                       and e.seq in (select o.seq from events o
                                      where o.tenant_id = p_tenant and o.session_id = session.id and o.seq <= v_seq
                                      order by o.seq limit v_left);
                    get diagnostics v_rows = row_count;
                    v_left := v_left - v_rows;
                    -- There may be more of it: it comes again.
                    exit when v_left <= 0;
                end if;
                if session.over then
                    -- Memories before their store, so that gateways that keep a copy of a block are told.
                    v_stores := array(select m.id from memory_stores m
                                       where m.tenant_id = p_tenant and m.managed and m.owner_key = 'session ' || session.id::text);
                    delete from memories m where m.tenant_id = p_tenant and m.store_id = any (v_stores);
                    delete from memory_stores m where m.tenant_id = p_tenant and m.id = any (v_stores);
                    delete from sessions s where s.tenant_id = p_tenant and s.id = session.id;
                    perform pg_notify('trunkline_events', session.id::text);
                end if;
            end if;
        end if;
        p_created := session.created_at;
        p_id := session.id;
    end loop;
    if v_any then
        created_at := coalesce(p_created, '1970-01-01');
        id := coalesce(p_id, '00000000-0000-0000-0000-000000000000');
    end if;
end
$$;

-- Drop months of events of which retention has left nothing, before last month's. Returns how many; those that are in use are for
-- another day.
create function trunkline.drop_empty_events() returns int
    language plpgsql security definer
    set search_path = trunkline, pg_temp
    set timezone = 'UTC'
    set lock_timeout = '2s'
as $$
declare
    child   text;
    kept    boolean;
    dropped int := 0;
begin
    for child in
        select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
         where i.inhparent = 'events'::regclass and c.relname ~ '^events_\d{4}_\d{2}$'
           -- Last month's is made anew each day.
           and to_date(right(c.relname, 7), 'YYYY_MM') < date_trunc('month', now()) - interval '1 month'
    loop
        begin
            execute format('select exists (select from trunkline.%I)', child) into kept;
            if not kept then
                execute format('drop table trunkline.%I', child);
                dropped := dropped + 1;
            end if;
        exception when lock_not_available then
            null;
        end;
    end loop;
    return dropped;
end
$$;

revoke execute on function trunkline.retaining_tenants(), trunkline.expire_sessions(uuid, timestamptz, uuid, int),
    trunkline.drop_empty_events() from public;
grant execute on function trunkline.retaining_tenants(), trunkline.expire_sessions(uuid, timestamptz, uuid, int),
    trunkline.drop_empty_events() to trunkline_control;
