-- The response cache in Postgres: answers that any gateway of the installation may give again to the same request.

set local role trunkline_owner;

-- Unlogged: what is lost with a crash is asked for again. The key is a hash over tenant, namespace, route, model and request.
create unlogged table trunkline.cached_answers (
    tenant_id    uuid        not null,
    key          bytea       not null check (length(key) = 32),
    call_id      uuid        not null,               -- the call that the answer was given to
    content_type text        not null,
    upstream     text        not null,
    body         bytea       not null,
    expires_at   timestamptz not null,
    primary key (tenant_id, key)
);
create index cached_answers_age on trunkline.cached_answers (expires_at);
alter table trunkline.cached_answers enable row level security;
alter table trunkline.cached_answers force row level security;
create policy owner on trunkline.cached_answers to trunkline_owner using (true) with check (true);

-- The answer that is kept for a request, if one is.
create function trunkline.gateway_cache_get(p_tenant uuid, p_key bytea)
    returns table (call_id uuid, content_type text, upstream text, body bytea)
    language sql stable security definer
    set search_path = trunkline, pg_temp
as $$
    select c.call_id, c.content_type, c.upstream, c.body from cached_answers c
     where c.tenant_id = p_tenant and c.key = p_key and c.expires_at > clock_timestamp()
$$;

-- Keep an answer, in place of an older one. Each time a few of those whose time is over go, so that the table stays as large as
-- what is kept of one time to live.
create function trunkline.gateway_cache_put(p_tenant uuid, p_key bytea, p_call uuid, p_content_type text, p_upstream text,
                                            p_body bytea, p_ttl_ms bigint) returns void
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
begin
    insert into cached_answers as c (tenant_id, key, call_id, content_type, upstream, body, expires_at)
    values (p_tenant, p_key, p_call, p_content_type, p_upstream, p_body,
            clock_timestamp() + p_ttl_ms * interval '1 millisecond')
    on conflict (tenant_id, key) do update
       set call_id = excluded.call_id, content_type = excluded.content_type, upstream = excluded.upstream,
           body = excluded.body, expires_at = excluded.expires_at;
    delete from cached_answers d where d.ctid = any (array(
        select o.ctid from cached_answers o where o.expires_at < clock_timestamp()
         order by o.expires_at limit 10 for update skip locked));
end
$$;

-- As before, and what the response cache holds past its time.
create or replace function trunkline.forget_answers() returns bigint
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
declare
    calls  bigint;
    posts  bigint;
    cached bigint;
begin
    delete from idempotent_calls i where i.created_at < now() - interval '24 hours' and i.until < now();
    get diagnostics calls = row_count;
    delete from idempotency_keys k where k.created_at < now() - interval '24 hours';
    get diagnostics posts = row_count;
    delete from cached_answers c where c.expires_at < now();
    get diagnostics cached = row_count;
    return calls + posts + cached;
end
$$;

comment on column trunkline.idempotent_calls.answer is
    '{status, content_type, upstream, session, body, binary}; neither body nor binary: too large to keep';

revoke execute on function trunkline.gateway_cache_get(uuid, bytea),
    trunkline.gateway_cache_put(uuid, bytea, uuid, text, text, bytea, bigint) from public;
grant execute on function trunkline.gateway_cache_get(uuid, bytea),
    trunkline.gateway_cache_put(uuid, bytea, uuid, text, text, bytea, bigint) to trunkline_gateway;
