-- Consolidation: a model reads what is new in sessions and proposes operations on blocks.

set local role trunkline_owner;

alter table trunkline.agent_versions
    add column consolidate jsonb;                    -- {model, idle_seconds, turns, review, run_tokens, daily_tokens}; null: off
create index agent_versions_consolidate on trunkline.agent_versions (tenant_id, agent_id, version) where consolidate is not null;

-- How far a session is consolidated, and the run that is under way: what the model is asked is kept, so that whoever goes on
-- with it asks the same under the same idempotency key.
create table trunkline.consolidations (
    tenant_id   uuid        not null,
    session_id  uuid        not null,
    agent_id    uuid        not null,
    done_seq    bigint      not null,                -- up to this event
    turns       int         not null,                -- of the user, since then
    after_turns int         not null,                -- so many are worked on at once, without waiting for the session to be idle
    due_at      timestamptz,                         -- null: nothing to do; while somebody works on it, when others may
    not_before  timestamptz,                         -- after failures, or when the day's tokens are spent
    claimed_by  text,                                -- the worker
    failures    int         not null default 0,      -- in a row
    error       text,                                -- why the last run failed
    run_id      uuid,
    run_to_seq  bigint,
    run_day     date,                                -- whose tokens it draws on
    run_tokens  bigint,                              -- drawn for it, the worst case
    run         json,                                -- what is asked, and what of the blocks it was shown; the text as it was written
    primary key (tenant_id, session_id),
    foreign key (tenant_id, session_id) references trunkline.sessions (tenant_id, id) on delete cascade,
    foreign key (tenant_id, agent_id) references trunkline.agents (tenant_id, id) on delete cascade
);
create index consolidations_due on trunkline.consolidations (due_at) where due_at is not null;
create index consolidations_claimed on trunkline.consolidations (claimed_by) where claimed_by is not null;

-- What an agent's runs have drawn on a day (UTC).
create table trunkline.consolidation_tokens (
    tenant_id uuid   not null,
    agent_id  uuid   not null,
    day       date   not null,
    tokens    bigint not null,
    primary key (tenant_id, agent_id, day),
    foreign key (tenant_id, agent_id) references trunkline.agents (tenant_id, id) on delete cascade
);

-- Operations on one field of one block of a session's user, or of the session. They go with the session that they cite.
create table trunkline.memory_proposals (
    tenant_id  uuid        not null,
    id         uuid        not null,
    agent_id   uuid        not null,
    session_id uuid        not null,
    user_id    text,                                 -- the session's
    run_id     uuid        not null,
    block      text        not null,
    scope      text        not null,                 -- the block's; not one of a scope's where there is no such block
    operations jsonb       not null,                 -- with their preconditions
    events     uuid[]      not null,                 -- where it comes from
    reason     text        not null,
    status     text        not null check (status in ('pending', 'applied', 'refused', 'rejected')),
    error      text,                                 -- why it was refused
    version_id uuid,                                 -- the memory version that it made; null: none
    created_at timestamptz not null,
    decided_at timestamptz,
    decided_by uuid,                                 -- the key that approved or rejected it; null: nobody was asked
    primary key (tenant_id, id),
    check ((status = 'pending') = (decided_at is null)),
    foreign key (tenant_id, session_id) references trunkline.sessions (tenant_id, id) on delete cascade
);
create index memory_proposals_recent on trunkline.memory_proposals (tenant_id, agent_id, created_at, id);
create index memory_proposals_session on trunkline.memory_proposals (tenant_id, session_id);

do $$
declare
    name text;
begin
    foreach name in array array['consolidations', 'consolidation_tokens', 'memory_proposals'] loop
        execute format('alter table trunkline.%I enable row level security', name);
        execute format('alter table trunkline.%I force row level security', name);
        execute format('create policy one_tenant on trunkline.%I to trunkline_control
                        using (tenant_id = trunkline.current_tenant()) with check (tenant_id = trunkline.current_tenant())',
                       name);
        execute format('create policy owner on trunkline.%I to trunkline_owner using (true) with check (true)', name);
        execute format('grant select, insert, update, delete on trunkline.%I to trunkline_control', name);
    end loop;
end
$$;

-- Note that there is something new to look through. A fork's copies, which keep their times, are not new.
create function trunkline.events_to_consolidate() returns trigger
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
begin
    if not exists (select from agent_versions v
                    where v.consolidate is not null and v.tenant_id in (select a.tenant_id from appended a)) then
        return null;
    end if;
    insert into consolidations as c (tenant_id, session_id, agent_id, done_seq, turns, after_turns, due_at)
    select n.tenant_id, n.session_id, n.agent_id, n.first - 1, n.turns, n.after_turns,
           clock_timestamp() + make_interval(secs => case when n.turns < n.after_turns then n.idle else 0 end)
      from (select e.tenant_id, e.session_id, s.agent_id, min(e.seq) as first,
                   count(*) filter (where e.type = 'user.message') as turns,
                   (v.consolidate ->> 'turns')::int as after_turns, (v.consolidate ->> 'idle_seconds')::int as idle
              from appended e
              join sessions s on s.tenant_id = e.tenant_id and s.id = e.session_id and e.created_at >= s.created_at
              join agents a on a.tenant_id = s.tenant_id and a.id = s.agent_id and a.archived_at is null
              join agent_versions v on v.tenant_id = a.tenant_id and v.agent_id = a.id and v.version = a.current_version
             where v.consolidate is not null and e.type in ('user.message', 'agent.message')
             group by e.tenant_id, e.session_id, s.agent_id, v.consolidate
             order by e.tenant_id, e.session_id) as n
    on conflict (tenant_id, session_id) do update
       set turns = c.turns + excluded.turns, after_turns = excluded.after_turns,
           due_at = case when c.claimed_by is not null then c.due_at
                         when c.turns + excluded.turns >= excluded.after_turns then greatest(clock_timestamp(), c.not_before)
                         else greatest(excluded.due_at, c.not_before) end;
    return null;
end
$$;
revoke execute on function trunkline.events_to_consolidate() from public;
create trigger events_to_consolidate after insert on trunkline.events
    referencing new table as appended for each statement execute function trunkline.events_to_consolidate();

-- Take up to `p_limit` sessions of any tenant that are due and not running, or whose worker is gone; others leave them for `p_seconds`.
create function trunkline.claim_consolidations(p_worker text, p_limit int, p_seconds int)
    returns table (tenant_id uuid, session_id uuid)
    language sql security definer
    set search_path = trunkline, pg_temp
as $$
    with due as (
        select c.tenant_id, c.session_id
          from consolidations c
          join sessions s on s.tenant_id = c.tenant_id and s.id = c.session_id and s.status <> 'running'
         where c.due_at <= clock_timestamp()
            or (c.claimed_by is not null and not exists (select from workers w where w.name = c.claimed_by))
         order by c.due_at limit p_limit
           for update of c skip locked
    )
    update consolidations c
       set claimed_by = p_worker, due_at = clock_timestamp() + make_interval(secs => p_seconds)
      from due
     where c.tenant_id = due.tenant_id and c.session_id = due.session_id
    returning c.tenant_id, c.session_id
$$;
revoke execute on function trunkline.claim_consolidations(text, int, int) from public;
grant execute on function trunkline.claim_consolidations(text, int, int) to trunkline_control;
