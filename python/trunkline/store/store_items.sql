-- Items of a memory store. $1 is the tenant, $2 the store; items past their time are as if they were not there.

-- name: select_item
-- The item of a namespace ($3) and key ($4).
select namespace, key, value, created_at, updated_at from trunkline.store_items
 where tenant_id = $1 and store_id = $2 and namespace = $3 and key = $4 and (expires_at is null or expires_at > $5);

-- name: put_item
-- Write an item, in the place of one of its namespace and key; one past its time begins anew.
insert into trunkline.store_items as i (tenant_id, store_id, namespace, key, document_id, value, ttl, expires_at, created_at,
                                        updated_at)
values ($1, $2, $3, $4, $5, $6, $7::interval, $8::timestamptz + $7::interval, $8, $8)
on conflict (tenant_id, store_id, namespace, key) do update
   set value = excluded.value, ttl = excluded.ttl, expires_at = excluded.expires_at, updated_at = excluded.updated_at,
       created_at = case when i.expires_at <= excluded.updated_at then excluded.created_at else i.created_at end;

-- name: delete_item
-- Delete an item; tells whether it was there.
delete from trunkline.store_items where tenant_id = $1 and store_id = $2 and namespace = $3 and key = $4;

-- name: touch_items
-- Let items that were read be kept for their time again.
update trunkline.store_items i set expires_at = $5::timestamptz + i.ttl
  from unnest($3::text[], $4::text[]) as r (namespace, key)
 where i.tenant_id = $1 and i.store_id = $2 and i.namespace = r.namespace::text[] and i.key = r.key and i.ttl is not null;

-- name: list_items
-- The items below a namespace ($3) that are as a filter ($4) says, those written last first.
select namespace, key, value, created_at, updated_at, null::real as score
  from trunkline.store_items
 where tenant_id = $1 and store_id = $2 and namespace[1:cardinality($3::text[])] = $3::text[]
   and ($4::jsonb is null or trunkline.value_matches(value, $4))
   and (expires_at is null or expires_at > $5)
 order by updated_at desc, namespace, key
 limit $6 offset $7;

-- name: rank_items
-- The same, of those whose passages were found ($8, with their scores $9), the best first.
select i.namespace, i.key, i.value, i.created_at, i.updated_at, f.score
  from (select document_id, max(score) as score from unnest($8::uuid[], $9::real[]) as u (document_id, score) group by 1) as f
  join trunkline.store_items i on i.tenant_id = $1 and i.store_id = $2 and i.document_id = f.document_id
 where i.namespace[1:cardinality($3::text[])] = $3::text[]
   and ($4::jsonb is null or trunkline.value_matches(i.value, $4))
   and (i.expires_at is null or i.expires_at > $5)
 order by f.score desc, i.namespace, i.key
 limit $6 offset $7;

-- name: list_namespaces
-- The namespaces that begin ($3) and end ($4) with these labels, where null stands for any, cut after $5 labels.
select distinct n.namespace[1:coalesce($5::int, cardinality(n.namespace))] collate "C" as namespace
  from (select distinct namespace from trunkline.store_items
         where tenant_id = $1 and store_id = $2 and (expires_at is null or expires_at > $6)) as n
 where cardinality(n.namespace) >= greatest(cardinality($3::text[]), cardinality($4::text[]))
   and not exists (select from unnest($3::text[]) with ordinality as p (label, nth)
                    where p.label is not null and n.namespace[p.nth] <> p.label)
   and not exists (select from unnest($4::text[]) with ordinality as p (label, nth)
                    where p.label is not null
                      and n.namespace[cardinality(n.namespace) - cardinality($4::text[]) + p.nth] <> p.label)
 order by 1
 limit $7 offset $8;

-- name: forget
-- Delete items past their time, in all stores.
select trunkline.forget_items($1) as deleted;
