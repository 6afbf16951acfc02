-- Usage added up, by whatever its rows say of a call.

set local role trunkline_owner;

-- Every policy calls it: marked unsafe, as functions are by default, it kept each query of the control plane on one core.
alter function trunkline.current_tenant() parallel safe;

-- Sums over a tenant's calls, a row a group. `p_by`: columns of `usage`; `p_bucket`: minute, hour, day or month (UTC), or null;
-- `p_filters`: {column: [values]}; `p_agent`: the only agent that the caller may see. Sorted by a column of the
-- answer, then by the groups, so that pages by offset do not overlap while nothing is added.
-- The text is put together from names in this function alone. Runs with the caller's rights, under row-level security.
create function trunkline.usage_report(p_tenant uuid, p_agent uuid, p_by text[], p_bucket text, p_filters jsonb,
                                       p_since timestamptz, p_until timestamptz, p_sort text, p_descending boolean,
                                       p_limit int, p_offset int)
    returns setof jsonb
    language plpgsql stable
    set search_path = trunkline, pg_temp
    set timezone = 'UTC'
as $$
declare
    dimensions constant jsonb := '{"key_id": "uuid", "team_id": "uuid", "agent_id": "uuid", "session_id": "uuid", "user_id": "text",
        "model": "text", "provider": "text", "upstream_model": "text", "wire": "text", "status": "int", "error_type": "text",
        "stream": "boolean", "estimated": "boolean", "source": "text"}';
    name       text;
    groups     text[] := '{}';
    columns    text := '';
    conditions text := 'u.tenant_id = $1';
begin
    if p_bucket is not null then
        if p_bucket <> all (array['minute', 'hour', 'day', 'month']) then
            raise invalid_parameter_value using message = 'no such bucket: ' || p_bucket;
        end if;
        -- 3 µs a row less than date_trunc, which cannot be had for months.
        columns := case p_bucket when 'month' then 'date_trunc(''month'', u.created_at, ''UTC'') as time, '
                                 else format('date_bin(%L, u.created_at, ''epoch'') as time, ', '1 ' || p_bucket) end;
        groups := array['time'];
    end if;
    foreach name in array p_by loop
        if not dimensions ? name then
            raise invalid_parameter_value using message = 'not a column to group by: ' || name;
        end if;
        columns := columns || format('u.%I, ', name);
        groups := groups || quote_ident(name);
    end loop;
    for name in select jsonb_object_keys(p_filters) loop
        if not dimensions ? name then
            raise invalid_parameter_value using message = 'not a column to filter by: ' || name;
        end if;
        conditions := conditions || format(' and u.%I = any (array(select jsonb_array_elements_text($2 -> %L)::%s))', name, name,
                                           dimensions ->> name);
    end loop;
    if p_agent is not null then
        conditions := conditions || ' and u.agent_id = $3';
    end if;
    if p_since is not null then
        conditions := conditions || ' and u.created_at >= $4';
    end if;
    if p_until is not null then
        conditions := conditions || ' and u.created_at < $5';
    end if;
    return query execute format(
        'select to_jsonb(r) from (
             select %s count(*) as requests, count(*) filter (where u.status >= 400) as errors,
                    coalesce(sum(u.retries), 0) as retries,
                    coalesce(sum(u.input_tokens), 0) as input_tokens, coalesce(sum(u.output_tokens), 0) as output_tokens,
                    coalesce(sum(u.cached_tokens), 0) as cached_tokens,
                    coalesce(sum(u.cache_write_tokens), 0) as cache_write_tokens,
                    coalesce(sum(u.reasoning_tokens), 0) as reasoning_tokens,
                    count(*) filter (where u.estimated) as estimated_requests,
                    case when count(*) = 0 then 0 else sum(u.cost_usd) end as cost_usd,
                    count(*) filter (where u.cost_usd is null) as unpriced_requests,
                    avg(u.first_byte_us)::bigint as first_byte_us, avg(u.total_us)::bigint as total_us,
                    avg(u.overhead_us)::bigint as overhead_us
               from usage u where %s %s
         ) as r order by %s limit $6 offset $7',
        columns, conditions, case when groups <> '{}' then 'group by ' || array_to_string(groups, ', ') else '' end,
        array_to_string(array[format('%I %s', p_sort, case when p_descending then 'desc nulls last' else 'asc nulls first' end)]
                        || groups, ', '))
    using p_tenant, p_filters, p_agent, p_since, p_until, p_limit, p_offset;
end
$$;

revoke execute on function trunkline.usage_report(uuid, uuid, text[], text, jsonb, timestamptz, timestamptz, text, boolean, int, int)
    from public;
grant execute on function trunkline.usage_report(uuid, uuid, text[], text, jsonb, timestamptz, timestamptz, text, boolean, int, int)
    to trunkline_control;
