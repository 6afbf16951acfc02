-- Bodies of calls, where the settings ask for them. Bounded and redacted before they come here.

set local role trunkline_owner;

create table trunkline.call_bodies (
    tenant_id   uuid        not null,
    call_id     uuid        not null,
    created_at  timestamptz not null,
    key_id      uuid        not null,
    agent_id    uuid,
    session_id  uuid,
    request     jsonb,                               -- {text or base64, bytes, truncated}; null: it streamed past
    response    jsonb,                               -- the same; null: there was none
    expires_at  timestamptz not null,
    redacted_at timestamptz,
    redacted_by uuid,                                -- the key
    primary key (tenant_id, call_id, created_at)
) partition by range (created_at);
create index call_bodies_age on trunkline.call_bodies (expires_at);
create table trunkline.call_bodies_default partition of trunkline.call_bodies default;
alter table trunkline.call_bodies enable row level security;
alter table trunkline.call_bodies force row level security;
create policy one_tenant on trunkline.call_bodies to trunkline_control
    using (tenant_id = trunkline.current_tenant()) with check (tenant_id = trunkline.current_tenant());
create policy owner on trunkline.call_bodies to trunkline_owner using (true) with check (true);
grant select, delete on trunkline.call_bodies to trunkline_control;
grant update (request, response, redacted_at, redacted_by) on trunkline.call_bodies to trunkline_control;

-- As before, with one more table.
create or replace function trunkline.ensure_partitions(p_ahead int default 3) returns int
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
    foreach parent in array array['events', 'usage', 'call_bodies'] loop
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

-- Forget the bodies whose time is over: months of which nothing is to be kept as a whole, of others what is past its time.
-- For the worker's daily work, which looks across tenants, and tells none of them. Returns how many rows of the others these were.
create function trunkline.forget_bodies() returns bigint
    language plpgsql security definer
    set search_path = trunkline, pg_temp
    set timezone = 'UTC'
as $$
declare
    child text;
    kept  boolean;
    gone  bigint;
begin
    for child in
        select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
         where i.inhparent = 'call_bodies'::regclass and c.relname ~ '^call_bodies_\d{4}_\d{2}$'
           -- Last month's is made anew each day.
           and to_date(right(c.relname, 7), 'YYYY_MM') < date_trunc('month', now()) - interval '1 month'
    loop
        execute format('select exists (select from trunkline.%I where expires_at >= now())', child) into kept;
        if not kept then
            execute format('drop table trunkline.%I', child);
        end if;
    end loop;
    delete from call_bodies b where b.expires_at < now();
    get diagnostics gone = row_count;
    return gone;
end
$$;

alter type trunkline.call_row add attribute bodies jsonb; -- {request, response, keep_days}; null: nothing is stored

create function trunkline.store_bodies(p_calls trunkline.call_row[]) returns void
    language sql
    set search_path = trunkline, pg_temp
as $$
    insert into call_bodies (tenant_id, call_id, created_at, key_id, agent_id, session_id, request, response, expires_at)
    select c.tenant, c.call, c.at, c.key, c.agent, c.session, nullif(c.bodies -> 'request', 'null'),
           nullif(c.bodies -> 'response', 'null'), c.at + make_interval(days => (c.bodies ->> 'keep_days')::int)
      from unnest(p_calls) as c where c.bodies is not null
$$;

-- As before, and what is stored of calls' bodies.
create or replace function trunkline.gateway_record(p_calls trunkline.call_row[]) returns int
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
declare
    fresh call_row[];
begin
    begin
        insert into usage (tenant_id, id, created_at, key_id, team_id, agent_id, session_id, user_id, model, provider,
                           upstream_model, wire, stream, status, error_type, input_tokens, output_tokens, cached_tokens,
                           cache_write_tokens, reasoning_tokens, estimated, cost_usd, source, rounds, retries, first_byte_us,
                           total_us, overhead_us)
        select tenant, call, at, key, team, agent, session, user_id, model, provider, upstream_model, wire, stream, status,
               error_type, input_tokens, output_tokens, cached_tokens, cache_write_tokens, reasoning_tokens, estimated,
               cost_usd, source, rounds, retries, first_byte_us, total_us, overhead_us
          from unnest(p_calls);
    exception when unique_violation then
        -- Sent again, because the answer to the first time was lost or its gateway died: only what is not there yet.
        select coalesce(array_agg(p_calls[c.nth] order by c.nth), '{}') into fresh
          from (select min(ordinality) as nth from unnest(p_calls) with ordinality
                 where not exists (select from usage u where u.tenant_id = tenant and u.id = call and u.created_at = at)
                 group by tenant, call, at) as c;
        return gateway_record(fresh);
    end;

    if exists (select from unnest(p_calls) as c where c.turn is not null) then
        perform record_turns(p_calls);
    end if;
    if exists (select from unnest(p_calls) as c where c.idempotency is not null) then
        perform keep_answers(p_calls);
    end if;
    if exists (select from unnest(p_calls) as c where c.bodies is not null) then
        perform store_bodies(p_calls);
    end if;
    perform charge_calls(p_calls);
    return cardinality(p_calls);
end
$$;

revoke execute on function trunkline.store_bodies(trunkline.call_row[]), trunkline.forget_bodies() from public;
grant execute on function trunkline.forget_bodies() to trunkline_control;
