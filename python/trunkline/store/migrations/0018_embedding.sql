-- Embeddings made in the background: what waits for one, how far each store is, and where embeddings lie.
--
-- A passage that is written stands in `embedding_queue` from the same transaction on, until its embedding is stored. A worker
-- takes rows by moving their `ready_at` ahead: one that dies between embedding and storing leaves rows that come back by
-- themselves, and what was stored is out of the queue in the same transaction. A failure moves `ready_at` ahead too; nothing
-- is ever given up.
--
-- A store whose model changes gets a second set of embeddings while the first serves; the switch is one update of
-- `memory_stores.embedding_model`.

set local role trunkline_owner;

-- The embedder that workers are configured with; no row: none, and then nothing is queued.
create table trunkline.embedders (
    one           boolean     primary key default true check (one),
    model         text        not null,
    configured_at timestamptz not null,
    -- Until where stores were looked through for passages that were written before.
    survey_tenant uuid,
    survey_store  uuid,
    surveyed      boolean     not null default false
);
revoke all on trunkline.embedders from public;

create table trunkline.embedding_queue (
    tenant_id uuid        not null,
    store_id  uuid        not null,
    place     bigint      not null,
    ready_at  timestamptz not null default clock_timestamp(),
    failures  int         not null default 0,
    fault     text,                                  -- of the last failure
    message   text,
    primary key (tenant_id, store_id, place),
    foreign key (tenant_id, store_id, place) references trunkline.passages (tenant_id, store_id, place) on delete cascade
);
create index embedding_queue_ready on trunkline.embedding_queue (ready_at);
create index embedding_queue_tenant on trunkline.embedding_queue (tenant_id, ready_at);

-- The embeddings of a store by one model. A small store's lie on shelf 0 with all others' and are compared one by one; a big
-- one's have a shelf of their own with an HNSW index, so that a search in it meets no other store's.
create table trunkline.embedding_sets (
    tenant_id  uuid        not null,
    store_id   uuid        not null,
    model      text        not null,
    dimension  smallint    not null,
    passages   bigint      not null default 0,       -- embedded so far; those deleted since are still counted
    surveyed   boolean     not null default false,   -- what was written before is in the queue, or embedded
    shelf      int         not null default 0,
    moving     boolean     not null default false,   -- a part is still on shelf 0
    created_at timestamptz not null default now(),
    primary key (tenant_id, store_id, model),
    foreign key (tenant_id, store_id) references trunkline.memory_stores (tenant_id, id) on delete cascade
);
create index embedding_sets_shelve on trunkline.embedding_sets (passages) where (shelf = 0 and passages >= 1000) or moving;
create unique index embedding_sets_shelf on trunkline.embedding_sets (shelf) where shelf > 0;
create sequence trunkline.embedding_shelves as int;

drop function trunkline.nearest_passages(uuid, uuid, text, halfvec, int);
drop table trunkline.passage_embeddings;

-- Of unit length, so that the inner product is the cosine. In the row and not beside it: a scan reads all of them.
create table trunkline.passage_embeddings (
    tenant_id uuid     not null,
    store_id  uuid     not null,
    model     text     not null,
    place     bigint   not null,
    shelf     int      not null,
    dimension smallint not null,
    embedding halfvec  not null,
    primary key (tenant_id, store_id, place, model, shelf),
    check (vector_dims(embedding) = dimension),
    foreign key (tenant_id, store_id, place) references trunkline.passages (tenant_id, store_id, place) on delete cascade
) partition by list (shelf);
alter table trunkline.passage_embeddings alter column embedding set storage plain;
create table trunkline.passage_embeddings_0 partition of trunkline.passage_embeddings for values in (0);

do $$
declare
    name text;
begin
    foreach name in array array['embedding_queue', 'embedding_sets', 'passage_embeddings'] loop
        execute format('alter table trunkline.%I enable row level security', name);
        execute format('alter table trunkline.%I force row level security', name);
        execute format('create policy one_tenant on trunkline.%I to trunkline_control
                        using (tenant_id = trunkline.current_tenant()) with check (tenant_id = trunkline.current_tenant())', name);
        execute format('create policy owner on trunkline.%I to trunkline_owner using (true) with check (true)', name);
    end loop;
end
$$;
grant select on trunkline.embedding_queue, trunkline.embedding_sets, trunkline.passage_embeddings to trunkline_control;

-- What is written waits for its embedding.
create function trunkline.passages_to_embed() returns trigger
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
begin
    if exists (select from embedders) then
        insert into embedding_queue (tenant_id, store_id, place)
        select w.tenant_id, w.store_id, w.place from written w where w.content ~ '\S'
        on conflict do nothing;
    end if;
    return null;
end
$$;

-- What is written anew has no embedding until it has a new one.
create function trunkline.passages_to_embed_again() returns trigger
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
begin
    delete from passage_embeddings e using before o join after n using (tenant_id, store_id, place)
     where o.content is distinct from n.content
       and e.tenant_id = o.tenant_id and e.store_id = o.store_id and e.place = o.place;
    if exists (select from embedders) then
        insert into embedding_queue (tenant_id, store_id, place)
        select n.tenant_id, n.store_id, n.place from before o join after n using (tenant_id, store_id, place)
         where o.content is distinct from n.content and n.content ~ '\S'
        on conflict (tenant_id, store_id, place) do update set ready_at = clock_timestamp(), failures = 0, fault = null, message = null;
    end if;
    return null;
end
$$;

create trigger to_embed after insert on trunkline.passages
    referencing new table as written for each statement execute function trunkline.passages_to_embed();
create trigger to_embed_again after update on trunkline.passages
    referencing old table as before new table as after for each statement execute function trunkline.passages_to_embed_again();

-- Say which embedder workers have; null: none. Another one than before has all stores looked through.
create function trunkline.configure_embedder(p_model text) returns void
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
begin
    if p_model is null then
        delete from embedders;
        delete from embedding_queue;
        return;
    end if;
    insert into embedders as e (model, configured_at) values (p_model, now())
    on conflict (one) do update set model = p_model, configured_at = now(), survey_tenant = null, survey_store = null, surveyed = false
     where e.model <> p_model;
    if found then
        update embedding_sets s set surveyed = false where s.model = p_model and s.surveyed;
    end if;
end
$$;

-- Have all stores looked through again: for what a change of the embedder ran past.
create function trunkline.survey_again() returns void
    language sql security definer
    set search_path = trunkline, pg_temp
as $$ update embedders set survey_tenant = null, survey_store = null, surveyed = false $$;

-- Queue what the next `p_stores` stores hold without an embedding of the configured model. Returns how many stores these
-- were; 0: all have been looked through.
create function trunkline.survey_stores(p_stores int) returns int
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
declare
    embedder embedders;
    store    record;
    seen     int := 0;
begin
    select * into embedder from embedders where not surveyed for update skip locked;
    if not found then
        return 0;
    end if;
    for store in
        select s.tenant_id, s.id from memory_stores s
         where embedder.survey_tenant is null or (s.tenant_id, s.id) > (embedder.survey_tenant, embedder.survey_store)
         order by s.tenant_id, s.id limit p_stores
    loop
        insert into embedding_queue (tenant_id, store_id, place)
        select p.tenant_id, p.store_id, p.place from passages p
         where p.tenant_id = store.tenant_id and p.store_id = store.id and p.content ~ '\S'
           and not exists (select from passage_embeddings e where e.tenant_id = p.tenant_id and e.store_id = p.store_id
                              and e.place = p.place and e.model = embedder.model)
        on conflict do nothing;
        update embedding_sets s set surveyed = true
         where s.tenant_id = store.tenant_id and s.store_id = store.id and s.model = embedder.model and not s.surveyed;
        seen := seen + 1;
        embedder.survey_tenant := store.tenant_id;
        embedder.survey_store := store.id;
    end loop;
    update embedders set survey_tenant = embedder.survey_tenant, survey_store = embedder.survey_store, surveyed = (seen < p_stores);
    return seen;
end
$$;

-- Take up to `p_limit` passages of one tenant for `p_seconds`: those that wait longest. `token` goes back with the embedding.
create function trunkline.claim_passages(p_limit int, p_seconds float8)
    returns table (tenant_id uuid, store_id uuid, place bigint, token timestamptz, content text)
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
declare
    v_tenant uuid;
begin
    select q.tenant_id into v_tenant from embedding_queue q where q.ready_at <= clock_timestamp()
     order by q.ready_at limit 1 for update skip locked;
    if not found then
        return;
    end if;
    return query
    with next as (
        select q.store_id, q.place from embedding_queue q
         where q.tenant_id = v_tenant and q.ready_at <= clock_timestamp()
         order by q.ready_at, q.store_id, q.place limit p_limit for update skip locked
    ), taken as (
        update embedding_queue q set ready_at = clock_timestamp() + make_interval(secs => p_seconds)
          from next n where q.tenant_id = v_tenant and q.store_id = n.store_id and q.place = n.place
        returning q.store_id, q.place, q.ready_at
    )
    select v_tenant, t.store_id, t.place, t.ready_at, p.content
      from taken t join passages p on p.tenant_id = v_tenant and p.store_id = t.store_id and p.place = t.place
     order by t.store_id, t.place;
end
$$;

-- Store the embeddings of passages that were claimed. What was deleted, written anew or taken by another meanwhile is passed
-- over. Returns how many do not fit the set of their store, which has another dimension.
create function trunkline.store_embeddings(p_tenant uuid, p_model text, p_stores uuid[], p_places bigint[], p_tokens timestamptz[],
                                           p_embeddings text[], p_retry_seconds float8) returns int
    language plpgsql security definer
as $$
declare
    misfits int;
begin
    insert into embedding_sets (tenant_id, store_id, model, dimension, surveyed)
    select distinct on (s.id) p_tenant, s.id, p_model, vector_dims(g.embedding::halfvec),
           coalesce((select e.surveyed or (p_tenant, s.id) <= (e.survey_tenant, e.survey_store) from embedders e), false)
      from unnest(p_stores, p_embeddings) with ordinality as g (store_id, embedding, nth)
      join memory_stores s on s.tenant_id = p_tenant and s.id = g.store_id
     order by s.id, g.nth
    on conflict do nothing;
    -- Kept from being shelved until this is over.
    perform from embedding_sets s where s.tenant_id = p_tenant and s.store_id = any (p_stores) and s.model = p_model
       order by s.store_id for key share;

    with given as (
        select g.*, s.shelf, s.dimension, s.dimension = vector_dims(g.embedding::halfvec) as fits
          from unnest(p_stores, p_places, p_tokens, p_embeddings) as g (store_id, place, token, embedding)
          left join embedding_sets s on s.tenant_id = p_tenant and s.store_id = g.store_id and s.model = p_model
    ), ours as (
        select g.* from given g
          join embedding_queue q on q.tenant_id = p_tenant and q.store_id = g.store_id and q.place = g.place and q.ready_at = g.token
         where g.fits for update of q
    ), stored as (
        insert into passage_embeddings (tenant_id, store_id, model, place, shelf, dimension, embedding)
        select p_tenant, o.store_id, p_model, o.place, o.shelf, o.dimension, o.embedding::halfvec from ours o
        on conflict (tenant_id, store_id, place, model, shelf) do update set embedding = excluded.embedding
    ), counted as (
        update embedding_sets s set passages = s.passages + n.passages
          from (select o.store_id, count(*) as passages from ours o
                 where not exists (select from passage_embeddings e where e.tenant_id = p_tenant and e.store_id = o.store_id
                                      and e.place = o.place and e.model = p_model)
                 group by o.store_id) as n
         where s.tenant_id = p_tenant and s.store_id = n.store_id and s.model = p_model
    ), done as (
        delete from embedding_queue q using ours o where q.tenant_id = p_tenant and q.store_id = o.store_id and q.place = o.place
    ), refused as (
        update embedding_queue q
           set ready_at = clock_timestamp() + make_interval(secs => p_retry_seconds), failures = q.failures + 1, fault = 'wrong_dimension',
               message = format('The embedder gave %s numbers; the store''s embeddings by %s have %s. Embed the store anew, or give '
                                'the model the dimension that it had.', vector_dims(g.embedding::halfvec), p_model, g.dimension)
          from given g
         where q.tenant_id = p_tenant and q.store_id = g.store_id and q.place = g.place and q.ready_at = g.token and not g.fits
    )
    select count(*) into misfits from given g where not g.fits;

    update memory_stores s set embedding_model = p_model
     where s.tenant_id = p_tenant and s.id = any (p_stores) and s.embedding_model is null;
    return misfits;
end
$$;

-- Leave passages that were claimed for later. Longer after each failure, up to `p_most_seconds`, and at least for as long as
-- the embedder asked.
create function trunkline.put_back_passages(p_tenant uuid, p_stores uuid[], p_places bigint[], p_tokens timestamptz[], p_fault text,
                                            p_message text, p_least_seconds float8, p_most_seconds float8) returns void
    language sql security definer
    set search_path = trunkline, pg_temp
as $$
    update embedding_queue q
       set ready_at = clock_timestamp() + make_interval(secs => greatest(p_least_seconds,
                                                            least(power(2, least(q.failures, 20)), p_most_seconds))
                                                        * (0.75 + random() / 2)),
           failures = q.failures + 1, fault = p_fault, message = p_message
      from unnest(p_stores, p_places, p_tokens) as g (store_id, place, token)
     where q.tenant_id = p_tenant and q.store_id = g.store_id and q.place = g.place and q.ready_at = g.token
$$;

-- Have the searches of stores use the configured model as soon as all is embedded by it but for what the model refuses.
-- Returns how many stores were switched.
create function trunkline.switch_stores() returns int
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
declare
    switched int;
begin
    update memory_stores m set embedding_model = e.model
      from embedders e, embedding_sets s
     where s.model = e.model and s.surveyed and m.tenant_id = s.tenant_id and m.id = s.store_id
       and m.embedding_model is distinct from e.model
       and not exists (select from embedding_queue q where q.tenant_id = s.tenant_id and q.store_id = s.store_id
                          and q.fault is distinct from 'refused');
    get diagnostics switched = row_count;
    return switched;
end
$$;

-- Delete up to `p_limit` embeddings that no search uses nor will. Returns how many these were.
create function trunkline.delete_old_embeddings(p_limit int) returns int
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
declare
    old     embedding_sets;
    deleted int;
begin
    select s.* into old from embedding_sets s join memory_stores m on m.tenant_id = s.tenant_id and m.id = s.store_id
     where m.embedding_model is not null and s.model <> m.embedding_model
       and s.model is distinct from (select e.model from embedders e)
     limit 1 for update of s skip locked;
    if not found then
        return 0;
    end if;
    delete from passage_embeddings_0 e
     where e.ctid = any (array(select o.ctid from passage_embeddings_0 o
                                where o.tenant_id = old.tenant_id and o.store_id = old.store_id and o.model = old.model limit p_limit));
    get diagnostics deleted = row_count;
    if deleted = 0 then
        delete from embedding_sets s where s.tenant_id = old.tenant_id and s.store_id = old.store_id and s.model = old.model;
        if old.shelf > 0 then
            execute format('drop table passage_embeddings_%s', old.shelf);
        end if;
        deleted := 1;
    end if;
    return deleted;
end
$$;

-- Give the embeddings of a store that has grown past `p_above` a shelf with an index, and move up to `p_limit` of what lies on
-- shelf 0 there. Searches go on, over both. Returns whether there was anything to do.
create function trunkline.shelve_embeddings(p_above int, p_limit int) returns boolean
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
        execute format('create table %I (like passage_embeddings including defaults including constraints including storage)', name);
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

-- The passages of a store nearest to an embedding, by cosine: all compared, or by the index where the store has one.
create function trunkline.nearest_passages(p_tenant uuid, p_store uuid, p_model text, p_embedding halfvec, p_limit int)
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
        return query
        select e.place, -(e.embedding <#> p_embedding) from passage_embeddings_0 e
         where e.tenant_id = p_tenant and e.store_id = p_store and e.model = p_model
         order by e.embedding <#> p_embedding, e.place
         limit p_limit;
        return;
    end if;
    -- The index gives at most so many.
    perform set_config('hnsw.ef_search', least(greatest(p_limit, 100), 1000)::text, true);
    return query execute format(
        'select n.place, -n.distance from (
             (select e.place, e.embedding::halfvec(%1$s) <#> $1::halfvec(%1$s) as distance from passage_embeddings_%2$s e
               order by e.embedding::halfvec(%1$s) <#> $1::halfvec(%1$s) limit $2)
             %3$s) as n
          order by n.distance, n.place limit $2',
        v_set.dimension, v_set.shelf,
        case when v_set.moving then
            'union all
             (select e.place, e.embedding <#> $1 as distance from passage_embeddings_0 e
               where e.tenant_id = $3 and e.store_id = $4 and e.model = $5 order by e.embedding <#> $1 limit $2)'
        else '' end)
        using p_embedding, p_limit, p_tenant, p_store, p_model;
end
$$;

-- How far the stores of a tenant are: passages embedded by the model that is searched and by the one to come, and what waits.
create function trunkline.embedding_status(p_tenant uuid, p_store uuid default null)
    returns table (store_id uuid, model text, next_model text, passages bigint, embedded bigint, waiting bigint, failing bigint,
                   fault text, message text, indexed boolean)
    language sql stable security definer
    set search_path = trunkline, pg_temp
as $$
    with queue as (
        select q.store_id, count(*) as waiting, count(*) filter (where q.failures > 0) as failing,
               (array_agg(q.fault order by q.failures desc))[1] as fault, (array_agg(q.message order by q.failures desc))[1] as message
          from embedding_queue q where q.tenant_id = p_tenant and (p_store is null or q.store_id = p_store) group by q.store_id
    )
    select m.id, m.embedding_model, case when c.model is distinct from m.embedding_model then c.model end,
           (select count(*) from passages p where p.tenant_id = p_tenant and p.store_id = m.id),
           (select count(*) from passage_embeddings e where e.tenant_id = p_tenant and e.store_id = m.id and e.model = c.model),
           coalesce(q.waiting, 0), coalesce(q.failing, 0), q.fault, q.message, coalesce(s.shelf > 0 and not s.moving, false)
      from memory_stores m
      left join queue q on q.store_id = m.id
      left join embedders c on true
      left join embedding_sets s on s.tenant_id = p_tenant and s.store_id = m.id and s.model = m.embedding_model
     where m.tenant_id = p_tenant and (p_store is null or m.id = p_store) and (q.store_id is not null or m.embedding_model is not null)
     order by m.id
$$;

-- Embed a store anew by the configured model; until then it is found by words alone. Returns how many passages wait.
create function trunkline.embed_again(p_tenant uuid, p_store uuid) returns int
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
declare
    old     record;
    waiting int;
begin
    for old in select s.model, s.shelf from embedding_sets s where s.tenant_id = p_tenant and s.store_id = p_store for update loop
        delete from passage_embeddings e where e.tenant_id = p_tenant and e.store_id = p_store and e.model = old.model;
        if old.shelf > 0 then
            execute format('drop table passage_embeddings_%s', old.shelf);
        end if;
    end loop;
    delete from embedding_sets s where s.tenant_id = p_tenant and s.store_id = p_store;
    update memory_stores s set embedding_model = null where s.tenant_id = p_tenant and s.id = p_store;
    insert into embedding_queue (tenant_id, store_id, place)
    select p.tenant_id, p.store_id, p.place from passages p
     where p.tenant_id = p_tenant and p.store_id = p_store and p.content ~ '\S' and exists (select from embedders)
    on conflict (tenant_id, store_id, place) do update set ready_at = clock_timestamp(), failures = 0, fault = null, message = null;
    get diagnostics waiting = row_count;
    return waiting;
end
$$;

-- What an agent recalls of a user by a text and its embedding (null: by the text alone), each passage a line as in
-- `gateway_context`. `hybrid`: the embedding was of use; it is not where the store is searched by another model, `model`.
create function trunkline.gateway_recall(p_tenant uuid, p_agent uuid, p_user text, p_query text, p_tokens int, p_session uuid,
                                         p_embedding real[], p_model text)
    returns table (recall text, hybrid boolean, model text)
    language plpgsql stable security definer
as $$
declare
    store uuid;
begin
    hybrid := false;
    select s.id, s.embedding_model into store, model from memory_stores s
     where s.tenant_id = p_tenant and s.managed and s.owner_key = 'user ' || p_agent::text || ' ' || p_user;
    if found then
        hybrid := exists (select from embedding_sets e
                           where e.tenant_id = p_tenant and e.store_id = store and e.model = p_model
                             and e.model = gateway_recall.model and e.dimension = cardinality(p_embedding));
        select string_agg(format('- [%s %s] %s', to_char(r.created_at at time zone 'UTC', 'YYYY-MM-DD'), r.role,
                                 replace(replace(regexp_replace(r.content, '\s+', ' ', 'g'), '<', '\u003c'), '>', '\u003e')),
                          E'\n' order by r.created_at, r.passage_id) into recall
          from recall(p_tenant, store, p_query, 20, p_tokens, p_session,
                      case when hybrid then p_embedding::halfvec end, case when hybrid then p_model end) r;
    end if;
    return next;
end
$$;

-- How many passages wait for an embedding, of all tenants; for the gateway's metrics.
create function trunkline.gateway_embedding_queue() returns bigint
    language sql stable security definer
    set search_path = trunkline, pg_temp
as $$ select count(*) from embedding_queue $$;

-- pgvector's types and operators are where the extension was put.
do $$
declare
    name text;
begin
    foreach name in array array['store_embeddings(uuid, text, uuid[], bigint[], timestamptz[], text[], float8)',
                                'gateway_recall(uuid, uuid, text, text, int, uuid, real[], text)',
                                'shelve_embeddings(int, int)'] loop
        execute (select format('alter function trunkline.%s set search_path = trunkline, %I, pg_temp', name, n.nspname)
                   from pg_extension e join pg_namespace n on n.oid = e.extnamespace where e.extname = 'vector');
    end loop;
    execute (select format('alter function trunkline.nearest_passages set search_path = trunkline, %I, pg_temp', n.nspname)
               from pg_extension e join pg_namespace n on n.oid = e.extnamespace where e.extname = 'vector');
end
$$;

do $$
declare
    name text;
begin
    foreach name in array array['passages_to_embed()', 'passages_to_embed_again()', 'configure_embedder(text)', 'survey_again()',
                                'survey_stores(int)', 'claim_passages(int, float8)',
                                'store_embeddings(uuid, text, uuid[], bigint[], timestamptz[], text[], float8)',
                                'put_back_passages(uuid, uuid[], bigint[], timestamptz[], text, text, float8, float8)',
                                'switch_stores()', 'delete_old_embeddings(int)', 'shelve_embeddings(int, int)',
                                'embedding_status(uuid, uuid)', 'embed_again(uuid, uuid)',
                                'gateway_recall(uuid, uuid, text, text, int, uuid, real[], text)', 'gateway_embedding_queue()'] loop
        execute format('revoke execute on function trunkline.%s from public', name);
        if name not like 'passages_to%' and name not like 'gateway%' then
            execute format('grant execute on function trunkline.%s to trunkline_control', name);
        end if;
    end loop;
    execute (select format('revoke execute on function %s from public', p.oid::regprocedure)
               from pg_proc p where p.proname = 'nearest_passages' and p.pronamespace = 'trunkline'::regnamespace);
end
$$;
grant execute on function trunkline.gateway_recall(uuid, uuid, text, text, int, uuid, real[], text),
    trunkline.gateway_embedding_queue() to trunkline_gateway;
