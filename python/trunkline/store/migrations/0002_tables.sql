-- Tables. Rules: `tenant_id` comes first in every key and never changes; ids are UUIDv7 made above the store;
-- timestamps too, wherever they mean something to a user; append-only tables that age out are partitioned by month.
-- Where a table has other indexes that begin with the tenant, its primary key is made after them: over a table that is still
-- empty all of them seem equal, the planner takes the newest, and a prepared statement keeps that plan while the table grows.

set local role trunkline_owner;

-- Catalogues: no tenant, written by `migrate` alone.

create table trunkline.catalogue_versions (
    name    text primary key,
    version text not null
);

create table trunkline.model_prices (
    provider                 text    not null,
    model                    text    not null,
    input_usd_per_mtok       numeric not null,
    output_usd_per_mtok      numeric not null,
    cache_read_usd_per_mtok  numeric,
    cache_write_usd_per_mtok numeric,
    primary key (provider, model)
);

-- One row: counts every change of what the gateway's snapshot is made of.
create table trunkline.configuration (
    only_row boolean primary key default true check (only_row),
    revision bigint  not null default 1
);
insert into trunkline.configuration default values;

create table trunkline.tenants (
    id         uuid        primary key,
    name       text        not null unique check (name ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
    created_at timestamptz not null default now()
);

create table trunkline.agents (
    tenant_id       uuid        not null references trunkline.tenants (id),
    id              uuid        not null,
    name            text        not null check (length(name) between 1 and 256),
    current_version int         not null,
    created_at      timestamptz not null,
    updated_at      timestamptz not null,
    archived_at     timestamptz,
    primary key (tenant_id, id)
);
create unique index agents_name on trunkline.agents (tenant_id, name) where archived_at is null;

-- A version is immutable. `definition` is the whole agent as given (name, model, system, tools, metadata, memory, …).
-- The other columns are what the gateway reads, worked out when the version was written.
create table trunkline.agent_versions (
    tenant_id      uuid        not null,
    agent_id       uuid        not null,
    version        int         not null,
    definition     jsonb       not null,
    model          text,                             -- null: the first configured model
    instructions   text,
    memory_enabled boolean     not null,
    memory_refresh boolean     not null,             -- read committed state on every call
    memory_fail    boolean     not null,             -- on_unavailable: fail
    recall_tokens  int         not null,             -- 0: no recall
    memory_tools   jsonb       not null,             -- [{name, description, input_schema}]
    created_at     timestamptz not null,
    primary key (tenant_id, agent_id, version),
    foreign key (tenant_id, agent_id) references trunkline.agents (tenant_id, id) on delete cascade
);

-- The blocks that an agent version declares, in their order; what is rendered while nobody has written one.
create table trunkline.agent_blocks (
    tenant_id      uuid not null,
    agent_id       uuid not null,
    version        int  not null,
    name           text not null,
    position       int  not null,                    -- org, agent, user, session; then as declared
    scope          text not null check (scope in ('org', 'agent', 'user', 'session')),
    description    text not null,
    schema         jsonb not null,                   -- JSON Schema of the block's fields
    empty_rendered text not null,
    empty_tokens   int  not null,
    primary key (tenant_id, agent_id, version, name),
    foreign key (tenant_id, agent_id, version)
        references trunkline.agent_versions (tenant_id, agent_id, version) on delete cascade
);

create table trunkline.api_keys (
    tenant_id  uuid        not null references trunkline.tenants (id),
    id         uuid        not null,
    name       text        not null,
    hash       bytea       not null check (length(hash) = 32),  -- SHA-256 of the whole key text
    hint       text        not null,                            -- its last four characters
    scopes     text[]      not null,
    agent_id   uuid,                                            -- the only agent it may act for
    models     text[],                                          -- the only models it may ask for
    budget_usd numeric,                                         -- null: none
    rpm        int,                                             -- requests a minute; null: no limit
    expires_at timestamptz,
    revoked_at timestamptz,
    created_at timestamptz not null,
    unique (tenant_id, hash),
    foreign key (tenant_id, agent_id) references trunkline.agents (tenant_id, id) on delete cascade
);
alter table trunkline.api_keys add primary key (tenant_id, id);
-- Looked up before the tenant is known.
create index api_keys_hash on trunkline.api_keys (hash);

create table trunkline.key_spend (
    tenant_id uuid    not null,
    key_id    uuid    not null,
    usd       numeric not null default 0,
    requests  bigint  not null default 0,
    primary key (tenant_id, key_id),
    foreign key (tenant_id, key_id) references trunkline.api_keys (tenant_id, id) on delete cascade
);

-- A session's row holds its head and its lease; the events are the session.
create table trunkline.sessions (
    tenant_id      uuid        not null references trunkline.tenants (id),
    id             uuid        not null,
    agent_id       uuid        not null,
    agent_version  int         not null,
    user_id        text check (length(user_id) between 1 and 256),
    title          text,
    metadata       jsonb       not null default '{}',
    resources      jsonb       not null default '[]',
    origin         text        not null check (origin in ('gateway', 'api')),
    status         text        not null check (status in ('idle', 'running', 'rescheduling', 'terminated')),
    last_seq       bigint      not null default 0,
    head_chain     bytea,                            -- hash of the last message; null: no message yet
    root_id        uuid        not null,             -- the session that this one's family began with
    parent_id      uuid,                             -- forked from
    parent_seq     bigint,                           -- up to here
    lease_owner    text,
    lease_until    timestamptz,                      -- on the database's clock
    lease_fence    bigint      not null default 0,   -- grows with every claim
    input_tokens   bigint      not null default 0,
    output_tokens  bigint      not null default 0,
    cached_tokens  bigint      not null default 0,
    created_at     timestamptz not null,
    updated_at     timestamptz not null,
    archived_at    timestamptz,
    foreign key (tenant_id, agent_id, agent_version)
        references trunkline.agent_versions (tenant_id, agent_id, version)
);
create index sessions_head on trunkline.sessions (tenant_id, agent_id, head_chain);
create index sessions_family on trunkline.sessions (tenant_id, root_id);
create index sessions_recent on trunkline.sessions (tenant_id, created_at);
alter table trunkline.sessions add primary key (tenant_id, id);

-- The session. `chain` is set on the last event of a message: the hash of the conversation up to it.
create table trunkline.events (
    tenant_id    uuid        not null,
    session_id   uuid        not null,
    seq          bigint      not null,
    id           uuid        not null,
    type         text        not null,
    payload      jsonb       not null,
    chain        bytea,
    call_id      uuid,                               -- the model call it came with
    created_at   timestamptz not null,
    processed_at timestamptz,
    primary key (tenant_id, session_id, seq, created_at)
) partition by range (created_at);

create table trunkline.idempotency_keys (
    tenant_id  uuid        not null,
    key        text        not null,
    response   jsonb       not null,
    created_at timestamptz not null,
    primary key (tenant_id, key)
);

-- `scope` and `subject` say whose store it is; a store made for an agent's blocks is `managed` and unique.
create table trunkline.memory_stores (
    tenant_id   uuid        not null references trunkline.tenants (id),
    id          uuid        not null,
    name        text        not null,
    description text        not null default '',
    metadata    jsonb       not null default '{}',
    scope       text        not null check (scope in ('org', 'agent', 'user', 'session')),
    agent_id    uuid,                                -- null for org
    subject     text check (length(subject) between 1 and 256),  -- user: the user's id; session: the session's uuid
    managed     boolean     not null default false,
    -- The one text that names the subject of a managed store, so that a read joins on an equality.
    owner_key   text        not null generated always as (
        case scope when 'org' then 'org'
                   when 'agent' then 'agent ' || coalesce(agent_id::text, '')
                   when 'user' then 'user ' || coalesce(agent_id::text, '') || ' ' || coalesce(subject, '')
                   else 'session ' || coalesce(subject, '') end) stored,
    created_at  timestamptz not null,
    updated_at  timestamptz not null,
    archived_at timestamptz
);
create unique index memory_stores_owner on trunkline.memory_stores (tenant_id, owner_key) where managed;
create index memory_stores_recent on trunkline.memory_stores (tenant_id, created_at);
alter table trunkline.memory_stores add primary key (tenant_id, id);

-- The current state. A block has `value`, `states` and `rendered`; its content is the value as canonical JSON.
create table trunkline.memories (
    tenant_id       uuid        not null,
    store_id        uuid        not null,
    id              uuid        not null,
    path            text        not null,            -- blocks: /blocks/NAME
    content         text        not null,
    content_sha256  text        not null,
    content_bytes   int         not null,
    block           text,                            -- null: plain text
    value           jsonb,
    states          jsonb,                           -- field → {state, version_id, at}
    rendered        text,
    rendered_tokens int,
    version         int         not null,
    version_id      uuid        not null,
    created_at      timestamptz not null,
    updated_at      timestamptz not null,
    primary key (tenant_id, id),
    unique (tenant_id, store_id, path),
    foreign key (tenant_id, store_id) references trunkline.memory_stores (tenant_id, id) on delete cascade
);

-- One row a write. Not partitioned by time: history is kept as long as its store, whatever its age.
create table trunkline.memory_versions (
    tenant_id      uuid        not null,
    id             uuid        not null,
    store_id       uuid        not null,
    memory_id      uuid        not null,
    version        int         not null,
    operation      text        not null check (operation in ('created', 'modified', 'deleted')),
    operations     jsonb,                            -- the block operations that made it
    path           text,
    content        text,
    content_sha256 text,
    content_bytes  int,
    value          jsonb,
    actor_type     text        not null check (actor_type in ('agent', 'api_key', 'user', 'runtime')),
    actor_id       text        not null,
    session_id     uuid,
    event_id       uuid,                             -- the event it came from
    created_at     timestamptz not null,
    redacted_at    timestamptz,
    redacted_by    text,
    unique (tenant_id, memory_id, version),
    foreign key (tenant_id, store_id) references trunkline.memory_stores (tenant_id, id) on delete cascade
);
create index memory_versions_store on trunkline.memory_versions (tenant_id, store_id, created_at desc);
alter table trunkline.memory_versions add primary key (tenant_id, id);

-- What recall searches: a turn word for word. Kept as long as its store.
create table trunkline.passages (
    tenant_id       uuid        not null,
    store_id        uuid        not null,
    id              uuid        not null,
    session_id      uuid,
    event_id        uuid,
    role            text        not null,
    content         text        not null,
    tokens          int         not null,
    terms           tsvector    not null,
    embedding       vector,
    embedding_model text,
    created_at      timestamptz not null,
    primary key (tenant_id, store_id, id),
    foreign key (tenant_id, store_id) references trunkline.memory_stores (tenant_id, id) on delete cascade
);
create index passages_terms on trunkline.passages using gin (terms);

create table trunkline.usage (
    tenant_id        uuid        not null,
    id               uuid        not null,           -- of the call
    created_at       timestamptz not null,
    key_id           uuid        not null,
    agent_id         uuid,
    session_id       uuid,
    user_id          text,
    model            text        not null,           -- as asked for
    provider         text,
    upstream_model   text,
    wire             text        not null,
    stream           boolean     not null,
    status           int         not null,           -- as the client saw it; 499: it went away
    error_type       text,
    input_tokens     int         not null,
    output_tokens    int         not null,
    cached_tokens    int         not null,
    reasoning_tokens int         not null,
    estimated        boolean     not null,           -- the provider gave no usage
    cost_usd         numeric,                        -- null: no price known
    rounds           int         not null,           -- model calls made, memory rounds included
    retries          int         not null,
    first_byte_us    bigint,
    total_us         bigint      not null,
    overhead_us      bigint      not null,           -- total less the time spent waiting for upstream
    primary key (tenant_id, id, created_at)
) partition by range (created_at);
-- Rows come in the order of time: a range index is next to free to keep, unlike a tree.
create index usage_time on trunkline.usage using brin (created_at);

-- Partitions: a month each, from last month to `p_ahead` months on; the default takes what falls outside.
create table trunkline.events_default partition of trunkline.events default;
create table trunkline.usage_default partition of trunkline.usage default;

create function trunkline.ensure_partitions(p_ahead int default 3) returns int
    language plpgsql security definer
    set search_path = trunkline, pg_temp
    set timezone = 'UTC'
as $$
declare
    parent text;
    month  timestamptz;
    child  text;
    made   int := 0;
begin
    foreach parent in array array['events', 'usage'] loop
        for month in
            select generate_series(date_trunc('month', now()) - interval '1 month',
                                   date_trunc('month', now()) + make_interval(months => p_ahead),
                                   interval '1 month')
        loop
            child := format('%s_%s', parent, to_char(month, 'YYYY_MM'));
            if to_regclass('trunkline.' || child) is null then
                execute format('create table trunkline.%I partition of trunkline.%I for values from (%L) to (%L)',
                               child, parent, month, month + interval '1 month');
                made := made + 1;
            end if;
        end loop;
    end loop;
    return made;
end
$$;
