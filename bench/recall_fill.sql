-- What `python -m bench.recall` stores before it searches. Run by the superuser.

-- name: schema_of_vectors
-- Where pgvector's types and operators are.
select set_config('search_path', 'pg_catalog, ' || quote_ident(n.nspname), false)
  from pg_extension e join pg_namespace n on n.oid = e.extnamespace where e.extname = 'vector';

-- name: tenant
-- The tenant of all stores.
insert into trunkline.tenants (id, name, created_at) values ($1, 'recall', now());

-- name: store
-- A store.
insert into trunkline.memory_stores (tenant_id, id, name, scope, embedding_model, created_at, updated_at)
values ($1, $2, 'bench', 'org', 'made up', now(), now());

-- name: passages
-- Texts, twenty to a session, as whoever writes turns writes them.
insert into trunkline.passages (tenant_id, store_id, id, session_id, role, content, tokens, created_at)
select $1, $2, gen_random_uuid(), md5($2::text || (t.nth - 1) / 20)::uuid, 'user', t.content, (octet_length(t.content) + 3) / 4, now()
  from unnest($3::text[]) with ordinality as t (content, nth)
 order by t.nth;

-- name: fold
-- The worker's part.
select trunkline.fold_store($1, $2);

-- name: centres
-- What vectors are near to.
create temp table centres as
select n, (select array_agg(random_normal()) from generate_series(1, 384) where n is not null)::vector(384) as centre
  from generate_series(0, 199) as n;

-- name: embeddings
-- Vectors near to one of the 200 centres, of unit length.
insert into trunkline.passage_embeddings_0 (tenant_id, store_id, model, place, shelf, dimension, embedding)
select p.tenant_id, p.store_id, 'made up', p.place, 0, 384,
       l2_normalize(c.centre + (select array_agg(random_normal()) from generate_series(1, 384) where p.place is not null)::vector(384))::halfvec
  from trunkline.passages p join centres c on c.n = abs(hashint8(p.place)) % 200
 where p.tenant_id = $1 and p.store_id = $2;

-- name: embedding_set
-- The store's set of embeddings.
insert into trunkline.embedding_sets (tenant_id, store_id, model, dimension, passages, surveyed)
select $1, $2, 'made up', 384, count(*), true from trunkline.passages p where p.tenant_id = $1 and p.store_id = $2;

-- name: shelve
-- Bring big stores to indexes of their own, a step at a time.
select trunkline.shelve_embeddings($1, 1000000);

-- name: copy_stores
-- Copies of stores: $2 the first ones, $3 the new ones, one by one.
insert into trunkline.memory_stores (tenant_id, id, name, scope, embedding_model, created_at, updated_at)
select $1, s.new, 'bench', 'org', 'made up', now(), now() from unnest($2::uuid[], $3::uuid[]) as s (old, new);

-- name: copy_passages
-- In the order in which many users would have written them: those of a store lie apart.
insert into trunkline.passages (tenant_id, store_id, id, session_id, role, content, tokens, terms, length, likeness, place, created_at)
select $1, s.new, gen_random_uuid(), p.session_id, p.role, p.content, p.tokens, p.terms, p.length, p.likeness, p.place, p.created_at
  from unnest($2::uuid[], $3::uuid[]) as s (old, new)
  join trunkline.passages p on p.tenant_id = $1 and p.store_id = s.old
 order by p.place, s.new;

-- name: copy_postings
-- The index of their words.
insert into trunkline.passage_postings (tenant_id, store_id, word, part, places, weights)
select $1, s.new, p.word, p.part, p.places, p.weights
  from unnest($2::uuid[], $3::uuid[]) as s (old, new)
  join trunkline.passage_postings p on p.tenant_id = $1 and p.store_id = s.old;

-- name: copy_statistics
-- What their index holds.
insert into trunkline.passage_statistics (tenant_id, store_id, passages, length)
select $1, s.new, p.passages, p.length
  from unnest($2::uuid[], $3::uuid[]) as s (old, new)
  join trunkline.passage_statistics p on p.tenant_id = $1 and p.store_id = s.old;

-- name: copy_embeddings
-- Their vectors, in the order of the passages.
insert into trunkline.passage_embeddings_0 (tenant_id, store_id, model, place, shelf, dimension, embedding)
select $1, s.new, p.model, p.place, 0, p.dimension, p.embedding
  from unnest($2::uuid[], $3::uuid[]) as s (old, new)
  join trunkline.passage_embeddings_0 p on p.tenant_id = $1 and p.store_id = s.old
 order by p.place, s.new;

-- name: copy_embedding_sets
-- Their sets of embeddings.
insert into trunkline.embedding_sets (tenant_id, store_id, model, dimension, passages, surveyed)
select $1, s.new, p.model, p.dimension, p.passages, true
  from unnest($2::uuid[], $3::uuid[]) as s (old, new)
  join trunkline.embedding_sets p on p.tenant_id = $1 and p.store_id = s.old;

-- name: sample
-- Passages of a store and vectors near theirs: what is asked for.
select p.content, l2_normalize(e.embedding::vector(384) + (select array_agg(random_normal() * 0.02) from generate_series(1, 384)
                                                            where e.place is not null)::vector(384))::halfvec::text
  from trunkline.passages p
  join trunkline.passage_embeddings e on e.tenant_id = p.tenant_id and e.store_id = p.store_id and e.place = p.place
 where p.tenant_id = $1 and p.store_id = $2
 order by random() limit $3;

-- name: recall
-- What an agent's turn waits for.
select passage_id, content, score from trunkline.recall($1, $2, $3, 20, 2000, null, $4::text::halfvec, $5);

-- name: nearest
-- As recall finds them.
select array_agg(place order by similarity desc) from trunkline.nearest_passages($1, $2, 'made up', $3::text::halfvec, 200);

-- name: nearest_of_all
-- All compared.
select array_agg(n.place order by n.distance)
  from (select e.place, e.embedding <#> $3::text::halfvec as distance from trunkline.passage_embeddings e
         where e.tenant_id = $1 and e.store_id = $2 and e.model || '' = 'made up'
         order by (e.embedding <#> $3::text::halfvec) + 0 limit 200) as n;
