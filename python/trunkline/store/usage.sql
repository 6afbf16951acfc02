-- Usage: a row a call, written by the gateway.

-- name: sum_usage
-- Sums over the calls that match; calls without a known price have no cost.
select count(*) as requests,
       coalesce(sum(u.input_tokens), 0)::bigint as input_tokens,
       coalesce(sum(u.output_tokens), 0)::bigint as output_tokens,
       coalesce(sum(u.cached_tokens), 0)::bigint as cached_tokens,
       case when count(*) = 0 then 0 else sum(u.cost_usd) end as cost_usd,
       count(*) filter (where u.cost_usd is null) as unpriced_requests
  from trunkline.usage u
 where u.tenant_id = $1
   and ($2::uuid is null or u.key_id = $2)
   and ($3::uuid is null or u.agent_id = $3)
   and ($4::uuid is null or u.agent_id = $4)
   and ($5::uuid is null or u.session_id = $5)
   and ($6::timestamptz is null or u.created_at >= $6)
   and ($7::timestamptz is null or u.created_at < $7);
