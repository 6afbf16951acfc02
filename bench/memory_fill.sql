-- What `python -m bench.memory` stores before it reads: agents with ten blocks, users and sessions. Run by the superuser,
-- triggers off. Ids are made of numbers, so that the readers can name any of them.

-- name: identity
-- The n-th id of a kind.
create or replace function pg_temp.id_of(kind text, n bigint) returns uuid
    language sql immutable parallel safe
as $$ select (kind || substr(md5(kind || n), 9))::uuid $$;

-- name: rendered
-- A block as it is rendered: about 400 bytes.
create or replace function pg_temp.rendered_of(name text, scope text, n bigint) returns text
    language sql immutable parallel safe
as $$
    select format(E'<memory block="%s" scope="%s">\nWhat is known.\n', name, scope)
           || 'detail: "' || repeat(md5(name || n), 9) || E'"\nname: "' || n || E'"\nunknown: history\n</memory>'
$$;

-- name: stores
-- The stores of $4 users, from the $3-th on.
insert into trunkline.memory_stores (tenant_id, id, name, scope, agent_id, subject, managed, created_at, updated_at)
select $1, pg_temp.id_of('aaaaaaaa', n), 'user', 'user', $2, 'user-' || n, true, now(), now()
  from generate_series($3::bigint, $3::bigint + $4::bigint - 1) as n;

-- name: session_stores
-- The stores of $4 sessions, from the $3-th on.
insert into trunkline.memory_stores (tenant_id, id, name, scope, agent_id, subject, managed, created_at, updated_at)
select $1, pg_temp.id_of('bbbbbbbb', n), 'session', 'session', $2, pg_temp.id_of('cccccccc', n)::text, true, now(), now()
  from generate_series($3::bigint, $3::bigint + $4::bigint - 1) as n;

-- name: shared_stores
-- The stores of the organisation and of the agent.
insert into trunkline.memory_stores (tenant_id, id, name, scope, agent_id, subject, managed, created_at, updated_at)
values ($1, pg_temp.id_of('dddddddd', 0), 'org', 'org', null, null, true, now(), now()),
       ($1, pg_temp.id_of('dddddddd', 1), 'agent', 'agent', $2, null, true, now(), now());

-- name: sessions
-- $4 sessions, from the $3-th on, ten of each user.
insert into trunkline.sessions (tenant_id, id, agent_id, agent_version, user_id, origin, status, last_seq, head_chain,
                                root_id, created_at, updated_at)
select $1, pg_temp.id_of('cccccccc', n), $2, 1, 'user-' || n / 10, 'gateway', 'idle', 2,
       decode(repeat(md5('chain' || n), 2), 'hex'), pg_temp.id_of('cccccccc', n), now(), now()
  from generate_series($3::bigint, $3::bigint + $4::bigint - 1) as n;

-- name: blocks
-- The blocks named $6 of the $5 stores of kind $3, from the $4-th on.
insert into trunkline.memories (tenant_id, store_id, id, path, content, content_sha256, content_bytes, block, value,
                                states, rendered, rendered_tokens, version, version_id, created_at, updated_at)
select $1, pg_temp.id_of($3, n), gen_random_uuid(), '/blocks/' || block, v.value::text, md5(v.value::text) || md5(block),
       length(v.value::text), block, v.value, '{}', pg_temp.rendered_of(block, $2, n), 100, 1, gen_random_uuid(), now(), now()
  from generate_series($4::bigint, $4::bigint + $5::bigint - 1) as n
 cross join unnest($6::text[]) as block
 cross join lateral (select jsonb_build_object('name', n::text, 'detail', repeat(md5(block || n), 9)) as value) as v;
