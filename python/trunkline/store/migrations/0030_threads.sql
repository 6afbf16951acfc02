-- Threads: what agent frameworks keep of a conversation, under the name that they have for it: items in a row, or checkpoints.
-- Kept as long as the thread, whatever its age, and so not partitioned by time; a thread goes with its session, if it has one.

set local role trunkline_owner;

create table trunkline.threads (
    tenant_id  uuid        not null references trunkline.tenants (id),
    id         uuid        not null,
    agent_id   uuid,                                 -- made with a key of this agent alone; null: the organisation's
    framework  text        not null check (framework ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
    name       text        not null check (octet_length(name) between 1 and 1024),
    user_id    text        check (length(user_id) between 1 and 256),
    session_id uuid,                                 -- the thread is deleted with it
    last_seq   bigint      not null default 0,       -- of its items; never goes back
    created_at timestamptz not null,
    unique nulls not distinct (tenant_id, agent_id, framework, name),
    foreign key (tenant_id, agent_id) references trunkline.agents (tenant_id, id) on delete cascade,
    foreign key (tenant_id, session_id) references trunkline.sessions (tenant_id, id) on delete cascade
);
create index threads_user on trunkline.threads (tenant_id, user_id) where user_id is not null;
create index threads_session on trunkline.threads (tenant_id, session_id) where session_id is not null;
create index threads_recent on trunkline.threads (tenant_id, created_at);
alter table trunkline.threads add primary key (tenant_id, id);

-- One item of a conversation as a framework has it. `json`, not `jsonb`: it is given back byte for byte.
create table trunkline.thread_items (
    tenant_id  uuid        not null,
    thread_id  uuid        not null,
    seq        bigint      not null,
    item       json        not null,
    created_at timestamptz not null,
    primary key (tenant_id, thread_id, seq),
    foreign key (tenant_id, thread_id) references trunkline.threads (tenant_id, id) on delete cascade
);

-- The state of a graph after a step, without what its channels hold. `kind` says how `payload` is to be read.
create table trunkline.checkpoints (
    tenant_id     uuid        not null,
    thread_id     uuid        not null,
    namespace     text        not null collate "C",  -- '' or the path of a subgraph
    checkpoint_id text        not null collate "C",  -- sorts by time
    parent_id     text        collate "C",
    kind          text        not null,
    payload       bytea       not null,
    metadata      jsonb       not null,
    channels      jsonb       not null,              -- {channel: version}
    created_at    timestamptz not null,
    primary key (tenant_id, thread_id, namespace, checkpoint_id),
    foreign key (tenant_id, thread_id) references trunkline.threads (tenant_id, id) on delete cascade
);
create index checkpoints_newest on trunkline.checkpoints (tenant_id, thread_id, checkpoint_id, namespace);
create index checkpoints_run on trunkline.checkpoints (tenant_id, (metadata ->> 'run_id')) where metadata ? 'run_id';

-- What a channel held at a version: stored once, however many checkpoints have it.
create table trunkline.checkpoint_channels (
    tenant_id  uuid        not null,
    thread_id  uuid        not null,
    namespace  text        not null collate "C",
    channel    text        not null collate "C",
    version    text        not null collate "C",
    kind       text        not null,
    payload    bytea       not null,
    primary key (tenant_id, thread_id, namespace, channel, version),
    foreign key (tenant_id, thread_id) references trunkline.threads (tenant_id, id) on delete cascade
);

-- What the tasks of the step after a checkpoint wrote so far. May come before the checkpoint itself.
create table trunkline.checkpoint_writes (
    tenant_id     uuid        not null,
    thread_id     uuid        not null,
    namespace     text        not null collate "C",
    checkpoint_id text        not null collate "C",
    task_id       text        not null collate "C",
    idx           int         not null,              -- below 0: errors, interrupts and the like, which are written over
    task_path     text        not null collate "C",
    channel       text        not null,
    kind          text        not null,
    payload       bytea       not null,
    primary key (tenant_id, thread_id, namespace, checkpoint_id, task_id, idx),
    foreign key (tenant_id, thread_id) references trunkline.threads (tenant_id, id) on delete cascade
);

do $$
declare
    name text;
begin
    foreach name in array array['threads', 'thread_items', 'checkpoints', 'checkpoint_channels', 'checkpoint_writes'] loop
        execute format('alter table trunkline.%I enable row level security', name);
        execute format('alter table trunkline.%I force row level security', name);
        execute format('create policy one_tenant on trunkline.%I to trunkline_control
                        using (tenant_id = trunkline.current_tenant()) with check (tenant_id = trunkline.current_tenant())', name);
        execute format('create policy owner on trunkline.%I to trunkline_owner using (true) with check (true)', name);
        execute format('grant select, insert, update, delete on trunkline.%I to trunkline_control', name);
    end loop;
end
$$;

-- As before, and the threads of the user, or of the sessions that go.
create or replace function trunkline.erase(p_user text, p_session uuid, p_agent uuid, p_key uuid, p_id uuid, p_at timestamptz) returns jsonb
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
declare
    v_tenant   uuid := current_tenant();
    v_sessions uuid[];
    v_stores   uuid[];
    v_threads  uuid[];
    v_calls    uuid[];
    v_rows     bigint;
    v_more     bigint;
    v_erased   jsonb;
begin
    if v_tenant is null or (p_user is null) = (p_session is null) then
        raise exception 'erase: one tenant, and either a user or a session' using errcode = 'invalid_parameter_value';
    end if;
    with recursive family as (
        select s.id from sessions s
         where s.tenant_id = v_tenant and (p_agent is null or s.agent_id = p_agent) and (s.user_id = p_user or s.id = p_session)
        union
        select f.id from family o join sessions f on f.tenant_id = v_tenant and f.parent_id = o.id
    )
    select coalesce(array_agg(id order by id), '{}') into v_sessions from family;
    if p_session is not null and cardinality(v_sessions) = 0 then
        return null;
    end if;
    -- Whoever adds to one of them waits, and then finds it gone.
    perform from sessions s where s.tenant_id = v_tenant and s.id = any (v_sessions) order by s.id for update;

    select coalesce(array_agg(k.id), '{}') into v_stores
      from (select s.id from memory_stores s
             where s.tenant_id = v_tenant and s.managed
               and s.owner_key = any (array(
                   select 'session ' || id::text from unnest(v_sessions) as id
                   union all
                   select 'user ' || a.id::text || ' ' || p_user from agents a
                    where a.tenant_id = v_tenant and p_user is not null and (p_agent is null or a.id = p_agent)))
             order by s.id for update) as k;
    select coalesce(array_agg(u.id), '{}') into v_calls from usage u
     where u.tenant_id = v_tenant and (p_agent is null or u.agent_id = p_agent)
       and (u.user_id = p_user or u.session_id = any (v_sessions));

    select coalesce(array_agg(k.id), '{}') into v_threads
      from (select t.id from threads t
             where t.tenant_id = v_tenant
               and ((t.user_id = p_user and (p_agent is null or t.agent_id = p_agent)) or t.session_id = any (v_sessions))
             order by t.id for update) as k;

    -- Memories before their stores, so that gateways that keep a copy of a block are told.
    delete from memories m where m.tenant_id = v_tenant and m.store_id = any (v_stores);
    get diagnostics v_rows = row_count;
    v_erased := jsonb_build_object('sessions', cardinality(v_sessions), 'stores', cardinality(v_stores), 'memories', v_rows);
    delete from memory_versions v where v.tenant_id = v_tenant and v.store_id = any (v_stores);
    get diagnostics v_rows = row_count;
    v_erased := v_erased || jsonb_build_object('memory_versions', v_rows);
    -- With their postings, tails and embeddings.
    delete from passages p where p.tenant_id = v_tenant and p.store_id = any (v_stores);
    get diagnostics v_rows = row_count;
    delete from passages p where p.tenant_id = v_tenant and p.session_id = any (v_sessions);
    get diagnostics v_more = row_count;
    v_erased := v_erased || jsonb_build_object('passages', v_rows + v_more);
    delete from memory_stores s where s.tenant_id = v_tenant and s.id = any (v_stores);
    delete from events e where e.tenant_id = v_tenant and e.session_id = any (v_sessions);
    get diagnostics v_rows = row_count;
    v_erased := v_erased || jsonb_build_object('events', v_rows);
    delete from thread_items i where i.tenant_id = v_tenant and i.thread_id = any (v_threads);
    get diagnostics v_rows = row_count;
    delete from checkpoints c where c.tenant_id = v_tenant and c.thread_id = any (v_threads);
    get diagnostics v_more = row_count;
    v_erased := v_erased || jsonb_build_object('threads', cardinality(v_threads), 'thread_items', v_rows, 'checkpoints', v_more);
    -- With the channels and writes of their checkpoints.
    delete from threads t where t.tenant_id = v_tenant and t.id = any (v_threads);
    delete from call_bodies b where b.tenant_id = v_tenant and (b.call_id = any (v_calls) or b.session_id = any (v_sessions));
    get diagnostics v_rows = row_count;
    v_erased := v_erased || jsonb_build_object('call_bodies', v_rows);
    delete from cached_answers c where c.tenant_id = v_tenant and c.call_id = any (v_calls);
    get diagnostics v_rows = row_count;
    delete from idempotent_calls i where i.tenant_id = v_tenant and i.call_id = any (v_calls) and i.answer is not null;
    get diagnostics v_more = row_count;
    v_erased := v_erased || jsonb_build_object('kept_answers', v_rows + v_more);
    update usage u set user_id = null
     where u.tenant_id = v_tenant and u.user_id = p_user and (p_agent is null or u.agent_id = p_agent);
    get diagnostics v_rows = row_count;
    v_erased := v_erased || jsonb_build_object('calls_without_user', v_rows);
    delete from sessions s where s.tenant_id = v_tenant and s.id = any (v_sessions);
    perform pg_notify('trunkline_events', id::text) from unnest(v_sessions) as id;

    insert into erasures (tenant_id, id, kind, digest, agent_id, key_id, erased, erased_at)
    select v_tenant, p_id, k.kind, erasure_digest(v_tenant, k.kind, coalesce(p_user, p_session::text)), p_agent, p_key, v_erased, p_at
      from (select case when p_user is null then 'session' else 'user' end as kind) as k;
    return v_erased;
end
$$;
