-- Recall: which stored passages answer a text. The gateway and the control plane call the same function.

set local role trunkline_owner;

-- The passages of a store nearest to an embedding, by cosine.
create function trunkline.nearest_passages(p_tenant uuid, p_store uuid, p_model text, p_embedding halfvec, p_limit int)
    returns table (place bigint, similarity float8)
    language plpgsql stable
as $$
begin
    return query
    select e.place, -(e.embedding <#> p_embedding)
      from passage_embeddings e
     where e.tenant_id = p_tenant and e.store_id = p_store and e.model = p_model
       and e.dimension = vector_dims(p_embedding)
     order by e.embedding <#> p_embedding, e.place
     limit p_limit;
end
$$;
-- Its operators are where the extension was put.
do $$
begin
    execute (select format('alter function trunkline.nearest_passages set search_path = trunkline, %I, pg_temp', n.nspname)
               from pg_extension e join pg_namespace n on n.oid = e.extnamespace where e.extname = 'vector');
end
$$;

-- Best first, within `p_limit` passages and `p_token_budget` tokens; the same state gives the same answer.
-- The score is the sum of
--   BM25 over the store, of the passage and, less, of the two passages before and after it, as shares of the best one's;
--   the session's: the sum of the squares of its passages' BM25, as a share of the best one's;
--   the cosine to the query's embedding, above what is usual in the store, where there is one.
-- Of passages with the same words the best one is given. `p_tags` and `p_metadata` must all be there.
create function trunkline.recall(p_tenant uuid, p_store uuid, p_query text, p_limit int, p_token_budget int,
                                 p_exclude_session uuid default null, p_embedding halfvec default null, p_model text default null,
                                 p_from timestamptz default null, p_to timestamptz default null, p_roles text[] default null,
                                 p_sessions uuid[] default null, p_tags text[] default null, p_metadata jsonb default null)
    returns table (passage_id uuid, session_id uuid, document_id uuid, role text, content text, tokens int, tags text[],
                   metadata jsonb, created_at timestamptz, score real)
    language plpgsql stable security definer
    set search_path = trunkline, pg_temp
    set jit = off
as $$
declare
    v_query    tsvector;
    v_words    text[];
    v_any      tsquery;
    v_count    bigint;                     -- passages of the store
    v_length   float8;                     -- their mean length
    v_weights  float8[];                   -- of v_words: the inverse document frequency
    v_tail     record;
    v_excluded bigint := coalesce(passage_series(p_exclude_session) << 19, -524288);
    v_filtered boolean := num_nonnulls(p_from, p_to, p_roles, p_sessions, p_tags, p_metadata) > 0;
begin
    select to_tsvector(s.language::regconfig, left(p_query, 2000)) into v_query
      from memory_stores s where s.tenant_id = p_tenant and s.id = p_store;
    v_words := coalesce(tsvector_to_array(v_query), '{}');
    v_any := (select string_agg(quote_literal(word), ' | ') from unnest(v_words) as word)::tsquery;

    with tail as materialized (
        select t.place, p.length, case when p.terms @@ v_any then p.terms end as terms
          from passage_tail t join passages p on p.tenant_id = t.tenant_id and p.store_id = t.store_id and p.place = t.place
         where t.tenant_id = p_tenant and t.store_id = p_store
    ), hits as (
        select w.lexeme, t.place, cardinality(w.positions) << 16 | least(t.length, 65535) as weight
          from tail t cross join lateral unnest(t.terms) as w where w.lexeme = any (v_words)
    )
    select c.passages, c.length, h.* into v_tail
      from (select count(*) as passages, coalesce(sum(t.length), 0) as length from tail t) as c,
           (select coalesce(array_agg(h.lexeme), '{}') as words, coalesce(array_agg(h.place), '{}') as places,
                   coalesce(array_agg(h.weight), '{}') as weights from hits h) as h;

    select coalesce(sum(s.passages), 0) + v_tail.passages, coalesce(sum(s.length), 0) + v_tail.length into v_count, v_length
      from passage_statistics s where s.tenant_id = p_tenant and s.store_id = p_store;
    v_length := greatest(v_length / greatest(v_count, 1), 1);

    select array_agg(ln(1 + (v_count - n.passages + 0.5) / (n.passages + 0.5)) order by n.nth) into v_weights
      from (select w.nth, coalesce(f.passages, 0) + (select count(*) from unnest(v_tail.words) as t where t = w.word) as passages
              from unnest(v_words) with ordinality as w (word, nth)
              left join (select p.word, sum(cardinality(p.places)) as passages from passage_postings p
                          where p.tenant_id = p_tenant and p.store_id = p_store and p.word = any (v_words)
                          group by p.word) as f on f.word = w.word) as n;

    return query
    with posted as (
        select w.weight as idf, unnest(p.places) as place, unnest(p.weights) as weight
          from unnest(v_words, v_weights) as w (word, weight)
          join passage_postings p on p.tenant_id = p_tenant and p.store_id = p_store and p.word = w.word
         union all
        select v_weights[array_position(v_words, t.word)], t.place, t.weight
          from unnest(v_tail.words, v_tail.places, v_tail.weights) as t (word, place, weight)
    ), matched as (
        select h.place, sum(h.idf * (h.weight >> 16) * 2.2::float8
                            / ((h.weight >> 16) + 0.3::float8 + 0.9::float8 / v_length * (h.weight & 65535))) as score
          from posted h where h.place not between v_excluded and v_excluded + 524287
         group by h.place
    ), best as materialized (
        select m.place, m.score / max(m.score) over () as score from matched m
         order by m.score desc, m.place limit case when not v_filtered then 300 end
    ), sessions as (
        select b.place >> 19 as series, sum(b.score * b.score) as score from best b group by 1
    ), lexical as (
        select b.place + d.distance as place, sum(b.score * d.share) as score
          from best b cross join (values (-2, 0.15), (-1, 0.3), (0, 1.0), (1, 0.3), (2, 0.15)) as d (distance, share)
         group by 1
    ), nearest as materialized (
        select n.place, n.similarity from nearest_passages(p_tenant, p_store, p_model, p_embedding, 200) as n
         where p_embedding is not null
    ), ranked as (
        select l.place, l.score + 0.3 * s.score / max(s.score) over () as score
          from lexical l join sessions s on s.series = l.place >> 19
    ), fetched as (
        select p.id, p.session_id, p.document_id, p.role, p.content, p.tokens, p.tags, p.metadata, p.created_at, r.score,
               row_number() over (partition by coalesce(p.likeness, p.place) order by r.score desc, p.place) as alike,
               p.place
          from (select * from ranked r order by r.score desc, r.place
                 limit case when not v_filtered then p_limit * 2 + 10 end) as r
          join passages p on p.tenant_id = p_tenant and p.store_id = p_store and p.place = r.place
         where (p_from is null or p.created_at >= p_from) and (p_to is null or p.created_at < p_to)
           and (p_roles is null or p.role = any (p_roles)) and (p_sessions is null or p.session_id = any (p_sessions))
           and (p_tags is null or p.tags @> p_tags) and (p_metadata is null or p.metadata @> p_metadata)
           and (p_exclude_session is null or p.session_id is distinct from p_exclude_session)
    ), given as (
        select f.*, sum(f.tokens) over (order by f.score desc, f.place) as spent
          from (select * from fetched f where f.alike = 1 order by f.score desc, f.place limit p_limit) as f
    )
    select g.id, g.session_id, g.document_id, g.role, g.content, g.tokens, g.tags, g.metadata, g.created_at, g.score::real
      from given g where g.spent <= p_token_budget
     order by g.score desc, g.place;
end
$$;

revoke execute on function
    trunkline.nearest_passages(uuid, uuid, text, halfvec, int),
    trunkline.recall(uuid, uuid, text, int, int, uuid, halfvec, text, timestamptz, timestamptz, text[], uuid[], text[], jsonb)
    from public;
grant execute on function
    trunkline.recall(uuid, uuid, text, int, int, uuid, halfvec, text, timestamptz, timestamptz, text[], uuid[], text[], jsonb)
    to trunkline_control;
