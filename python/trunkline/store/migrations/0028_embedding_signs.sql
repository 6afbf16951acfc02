-- The nearest embeddings of a store are found by their signs first.

set local role trunkline_owner;

-- The signs of an embedding's numbers, a bit each: how many differ orders a store nearly as the cosine does. They stand side by
-- side in an index, a fifteenth of the embeddings' size, whatever other stores wrote between.
do $$
begin
    execute (select format('alter table trunkline.passage_embeddings add column signs bit varying not null
                            generated always as (%I.binary_quantize(embedding)) stored', n.nspname)
               from pg_extension e join pg_namespace n on n.oid = e.extnamespace where e.extname = 'vector');
end
$$;
create index passage_embeddings_signs on trunkline.passage_embeddings_0 (tenant_id, store_id, model) include (place, signs);

-- The nearest of the embeddings of a store that have no HNSW index. The signs choose half as many again as are wanted, and these
-- are compared; below 256 numbers signs tell too little, and all are compared.
create function trunkline.nearest_unindexed(p_tenant uuid, p_store uuid, p_model text, p_embedding halfvec, p_limit int)
    returns table (place bigint, similarity float8)
    language plpgsql stable
    set plan_cache_mode = force_generic_plan
as $$
declare
    v_signs bit varying;
begin
    if vector_dims(p_embedding) < 256 then
        return query
        select e.place, -(e.embedding <#> p_embedding) from passage_embeddings_0 e
         where e.tenant_id = p_tenant and e.store_id = p_store and e.model = p_model
         order by e.embedding <#> p_embedding, e.place
         limit p_limit;
        return;
    end if;
    v_signs := binary_quantize(p_embedding);
    return query
    select n.place, n.similarity
      from (select c.place, (select -(e.embedding <#> p_embedding) from passage_embeddings_0 e
                              where e.tenant_id = p_tenant and e.store_id = p_store and e.place = c.place and e.model = p_model
                                and e.shelf = 0) as similarity
              from (select s.place from passage_embeddings_0 s
                     where s.tenant_id = p_tenant and s.store_id = p_store and s.model = p_model
                     order by hamming_distance(s.signs, v_signs), s.place limit p_limit * 3 / 2) as c) as n
     order by n.similarity desc, n.place limit p_limit;
end
$$;

-- The passages of a store nearest to an embedding, by cosine: by the store's index, if it has one; while it moves there, by both.
create or replace function trunkline.nearest_passages(p_tenant uuid, p_store uuid, p_model text, p_embedding halfvec, p_limit int)
    returns table (place bigint, similarity float8)
    language plpgsql stable security definer
as $$
declare
    v_set trunkline.embedding_sets;
begin
    select s.* into v_set from embedding_sets s
     where s.tenant_id = p_tenant and s.store_id = p_store and s.model = p_model and s.dimension = vector_dims(p_embedding);
    if not found then
        return;
    end if;
    if v_set.shelf = 0 then
        return query select n.place, n.similarity from nearest_unindexed(p_tenant, p_store, p_model, p_embedding, p_limit) as n;
        return;
    end if;
    -- The index gives at most so many.
    perform set_config('hnsw.ef_search', least(greatest(p_limit, 100), 1000)::text, true);
    return query execute format(
        'select n.place, n.similarity from (
             (select e.place, -(e.embedding::halfvec(%1$s) <#> $1::halfvec(%1$s)) as similarity from passage_embeddings_%2$s e
               order by e.embedding::halfvec(%1$s) <#> $1::halfvec(%1$s) limit $2)
             %3$s) as n
          order by n.similarity desc, n.place limit $2',
        v_set.dimension, v_set.shelf,
        case when v_set.moving then
            'union all select u.place, u.similarity from nearest_unindexed($3, $4, $5, $1, $2) as u'
        else '' end)
        using p_embedding, p_limit, p_tenant, p_store, p_model;
end
$$;

-- As before, for embeddings with signs.
create or replace function trunkline.shelve_embeddings(p_above int, p_limit int) returns boolean
    language plpgsql security definer
as $$
declare
    grown trunkline.embedding_sets;
    name  text;
    moved int;
begin
    select s.* into grown from embedding_sets s
     where (s.shelf = 0 and s.passages >= 1000 or s.moving) and (s.moving or s.passages > p_above)
     order by s.passages desc limit 1 for update skip locked;
    if not found then
        return false;
    end if;
    if grown.shelf = 0 then
        grown.shelf := nextval('embedding_shelves');
        name := format('passage_embeddings_%s', grown.shelf);
        execute format('create table %I (like passage_embeddings including defaults including constraints including storage
                                         including generated)', name);
        execute format('create index on %I using hnsw ((embedding::halfvec(%s)) halfvec_ip_ops)', name, grown.dimension);
        execute format('alter table passage_embeddings attach partition %I for values in (%s)', name, grown.shelf);
        update embedding_sets s set shelf = grown.shelf, moving = true
         where s.tenant_id = grown.tenant_id and s.store_id = grown.store_id and s.model = grown.model;
        return true;
    end if;
    with taken as (
        delete from passage_embeddings_0 e
         where e.ctid = any (array(select o.ctid from passage_embeddings_0 o
                                    where o.tenant_id = grown.tenant_id and o.store_id = grown.store_id and o.model = grown.model
                                    limit p_limit))
        returning e.*
    )
    insert into passage_embeddings (tenant_id, store_id, model, place, shelf, dimension, embedding)
    select t.tenant_id, t.store_id, t.model, t.place, grown.shelf, t.dimension, t.embedding from taken t
    on conflict do nothing;
    get diagnostics moved = row_count;
    if moved = 0 then
        update embedding_sets s set moving = false
         where s.tenant_id = grown.tenant_id and s.store_id = grown.store_id and s.model = grown.model;
    end if;
    return true;
end
$$;

-- pgvector's types and operators are where the extension was put.
do $$
declare
    name text;
begin
    foreach name in array array['nearest_unindexed', 'nearest_passages', 'shelve_embeddings'] loop
        execute (select format('alter function trunkline.%I set search_path = trunkline, %I, pg_temp', name, n.nspname)
                   from pg_extension e join pg_namespace n on n.oid = e.extnamespace where e.extname = 'vector');
    end loop;
    execute (select format('revoke execute on function %s from public', p.oid::regprocedure)
               from pg_proc p where p.proname = 'nearest_unindexed' and p.pronamespace = 'trunkline'::regnamespace);
end
$$;

-- Nobody asked it: `embedding_status` tells what waits, by store, and counts no other tenant's.
drop function trunkline.gateway_embedding_queue();
