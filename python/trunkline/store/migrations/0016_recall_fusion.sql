-- Recall fuses words and meaning, looks for words that are nearly those asked for, and prefers what is newer where told to.

set local role trunkline_owner;

-- The pieces of three letters that a word is made of, its ends counted as blanks.
create function trunkline.trigrams(p_word text) returns text[]
    language sql immutable parallel safe
return (select array_agg(distinct substr('  ' || p_word || ' ', n, 3)) from generate_series(1, length(p_word) + 1) as n);

-- Words of a store that begin like words which it lacks, and share half of their trigrams: names, misspelt.
create function trunkline.similar_words(p_tenant uuid, p_store uuid, p_words text[])
    returns table (word text, similarity float8)
    language plpgsql stable
    set search_path = trunkline, pg_temp
as $$
declare
    lacking record;
begin
    for lacking in
        select left(w, 2) as start, length(w) as letters, trigrams(w) as trigrams from unnest(p_words) as w
         where w ~ '^[[:alpha:]]{4,32}$'
    loop
        return query
        select s.word, s.shared / (cardinality(lacking.trigrams) + s.trigrams - s.shared)
          from (select v.word, cardinality(trigrams(v.word)) as trigrams,
                       (select count(*) from unnest(trigrams(v.word)) as t where t = any (lacking.trigrams))::float8 as shared
                  from (select p.word from passage_postings p
                         where p.tenant_id = p_tenant and p.store_id = p_store
                           and p.word >= lacking.start and p.word < lacking.start || U&'\FFFF'
                         union
                        select w.lexeme
                          from passage_tail t
                          join passages p on p.tenant_id = t.tenant_id and p.store_id = t.store_id and p.place = t.place
                         cross join lateral unnest(tsvector_to_array(p.terms)) as w (lexeme)
                         where t.tenant_id = p_tenant and t.store_id = p_store
                           and p.terms @@ (quote_literal(lacking.start) || ':*')::tsquery and starts_with(w.lexeme, lacking.start)
                       ) as v
                 where length(v.word) between lacking.letters - 2 and lacking.letters + 2) as s
         where s.shared * 3 >= cardinality(lacking.trigrams) + s.trigrams;
    end loop;
end
$$;

drop function trunkline.recall(uuid, uuid, text, int, int, uuid, halfvec, text, timestamptz, timestamptz, text[], uuid[], text[],
                               jsonb);

-- Best first, within `p_limit` passages and `p_token_budget` tokens; the same state gives the same answer.
-- A passage's own score is its BM25 as a share of the best one's, plus 0.4 of how near it is to the query's embedding: from 0
-- at the 200th nearest to 1 at the nearest. To that come, less, the scores of the two passages before and after it, and its
-- session's: half the sum of the cubes of its passages' scores, as a share of the best session's.
-- Of passages with the same words the best one is given. `p_tags` and `p_metadata` must all be there. With `p_half_life`, half of
-- the score fades with age.
create function trunkline.recall(
    p_tenant uuid, p_store uuid, p_query text, p_limit int, p_token_budget int,
    p_exclude_session uuid default null, p_embedding halfvec default null, p_model text default null,
    p_from timestamptz default null, p_to timestamptz default null, p_roles text[] default null,
    p_sessions uuid[] default null, p_tags text[] default null, p_metadata jsonb default null, p_half_life interval default null)
    returns table (passage_id uuid, session_id uuid, document_id uuid, role text, content text, tokens int, tags text[],
                   metadata jsonb, created_at timestamptz, score real)
    language plpgsql stable security definer
    set search_path = trunkline, pg_temp
    set jit = off
    set plan_cache_mode = force_generic_plan
as $$
declare
    v_words    text[];
    v_lacking  text[];
    v_any      tsquery;
    v_similar  text[];                     -- words in the place of those that the store lacks,
    v_alike    float8[];                   -- and how similar they are
    v_count    bigint;                     -- passages of the store
    v_length   float8;                     -- their mean length
    v_found    text[];                     -- words that the store has, rarest first
    v_weights  float8[];                   -- of v_found: the inverse document frequency
    v_leading  int;                        -- the first so many of v_found find passages;
    v_common   tsquery[];                  -- the others add to the best of what these found
    v_tail     record;
    v_excluded bigint := coalesce(passage_series(p_exclude_session) << 19, -524288);
    v_filtered boolean := num_nonnulls(p_from, p_to, p_roles, p_sessions, p_tags, p_metadata, p_half_life) > 0;
    -- Enough for an answer: what is far below only costs time. A filter applies to all that is found, so nothing is cut before.
    v_best     int := case when not v_filtered then 80 + 2 * p_limit end;
    v_fetched  int := case when not v_filtered then 10 + 2 * p_limit end;
begin
    select coalesce(tsvector_to_array(to_tsvector(s.language::regconfig, left(p_query, 2000))), '{}') into v_words
      from memory_stores s where s.tenant_id = p_tenant and s.id = p_store;
    v_lacking := v_words;
    loop
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

        -- Past 5,000 passages a commoner word finds none of its own, once rarer ones have found 500. Where these stand it counts as
        -- one that stands there once: how often says little of a common word.
        select coalesce(array_agg(n.word order by n.passages, n.word), '{}'),
               array_agg(ln(1 + (v_count - n.passages + 0.5) / (n.passages + 0.5))
                         * coalesce(v_alike[array_position(v_similar, n.word)], 1) order by n.passages, n.word),
               count(*) filter (where n.before < 500 or n.before + n.passages <= 5000)
          into v_found, v_weights, v_leading
          from (select f.*, sum(f.passages) over (order by f.passages, f.word) - f.passages as before
                  from (select h.word, sum(h.passages)::float8 as passages
                          from (select p.word, cardinality(p.places) as passages from passage_postings p
                                 where p.tenant_id = p_tenant and p.store_id = p_store and p.word = any (v_words)
                                 union all
                                select t.word, 1 from unnest(v_tail.words) as t (word)) as h
                         group by h.word) as f) as n;

        v_lacking := array(select w from unnest(v_lacking) as w where w <> all (v_found));
        exit when cardinality(v_lacking) = 0 or v_similar is not null or v_count = 0;
        select coalesce(array_agg(s.word), '{}'), coalesce(array_agg(s.similarity), '{}') into v_similar, v_alike
          from (select s.word, max(s.similarity) as similarity from similar_words(p_tenant, p_store, v_lacking) as s
                 where s.word <> all (v_words) group by s.word) as s;
        exit when v_similar = '{}';
        v_words := v_words || v_similar;
    end loop;

    v_common := array(select quote_literal(c.word)::tsquery
                        from unnest(v_found[v_leading + 1:]) with ordinality as c (word, nth) order by c.nth);
    return query
    with found as materialized (
        select h.place, sum(h.idf * (h.weight >> 16) * 2.2::float8
                            / ((h.weight >> 16) + 0.3::float8 + 0.9::float8 / v_length * (h.weight & 65535))) as score
          from (select w.weight as idf, unnest(p.places) as place, unnest(p.weights) as weight
                  from unnest(v_found, v_weights) with ordinality as w (word, weight, nth)
                  join passage_postings p on p.tenant_id = p_tenant and p.store_id = p_store and p.word = w.word
                 where w.nth <= v_leading
                 union all
                select w.weight, t.place, t.weight
                  from unnest(v_found, v_weights) with ordinality as w (word, weight, nth)
                  join unnest(v_tail.words, v_tail.places, v_tail.weights) as t (word, place, weight) on t.word = w.word
                 where w.nth <= v_leading) as h
         where h.place not between v_excluded and v_excluded + 524287
         group by h.place
    ), worded as (
        select f.place, f.score from found f order by f.score desc, f.place
         limit case when v_leading < cardinality(v_found) then 400 else v_best end
    ), weighed as (
        select w.place, w.score + case when v_leading = cardinality(v_found) then 0 else
               (select coalesce(sum(c.idf * 2.2::float8 / (1.3::float8 + 0.9::float8 / v_length * p.length)), 0)
                  from passages p join unnest(v_weights[v_leading + 1:], v_common) as c (idf, word) on p.terms @@ c.word
                 where p.tenant_id = p_tenant and p.store_id = p_store and p.place = w.place) end as score
          from worded w
    ), nearest as materialized (
        select n.place, n.similarity
          from nearest_passages(p_tenant, p_store, p_model, p_embedding, case when v_filtered then 1000 else 200 end) as n
         where p_embedding is not null
    ), range as (
        select max(n.similarity) as high, min(n.similarity) as low
          from (select n.similarity from nearest n order by n.similarity desc limit 200) as n
    ), own as (
        select s.place, sum(s.score) as score
          from (select w.place, w.score / max(w.score) over () as score
                  from (select * from weighed w order by w.score desc, w.place limit v_best) as w
                 union all
                select n.place, case when r.high > r.low then 0.4 * greatest(n.similarity - r.low, 0) / (r.high - r.low)
                                    else 0.4 end
                  from nearest n, range r where n.place not between v_excluded and v_excluded + 524287) as s
         group by s.place
    ), best as materialized (
        select o.place, o.score / max(o.score) over () as score
          from own o where o.score > 0 order by o.score desc, o.place limit v_best
    ), sessions as (
        select b.place >> 19 as series, sum(b.score * b.score * b.score) as score from best b group by 1
    ), placed as (
        select b.place + d.distance as place, sum(b.score * d.share) as score
          from best b cross join (values (-2, 0.15::float8), (-1, 0.3), (0, 1), (1, 0.3), (2, 0.15)) as d (distance, share)
         group by 1
    ), ranked as (
        select p.place, p.score + 0.5::float8 * s.score / (select max(m.score) from sessions m) as score
          from placed p join sessions s on s.series = p.place >> 19
         order by 2 desc, 1 limit v_fetched
    ), fetched as (
        select p.id, p.session_id, p.document_id, p.role, p.content, p.tokens, p.tags, p.metadata, p.created_at, p.place, r.score,
               row_number() over (partition by coalesce(p.likeness, p.place) order by r.score desc, p.place) as alike
          from (select r.place, r.score from ranked r) as r
          join passages p on p.tenant_id = p_tenant and p.store_id = p_store and p.place = r.place
         where (p_from is null or p.created_at >= p_from) and (p_to is null or p.created_at < p_to)
           and (p_roles is null or p.role = any (p_roles)) and (p_sessions is null or p.session_id = any (p_sessions))
           and (p_tags is null or p.tags @> p_tags) and (p_metadata is null or p.metadata @> p_metadata)
    ), aged as (
        select f.*, case when p_half_life is null then f.score
                         else f.score * (0.5 + 0.5 * 0.5 ^ (greatest(extract(epoch from now() - f.created_at), 0)
                                                            / extract(epoch from p_half_life))::float8) end as final
          from fetched f where f.alike = 1
    ), given as (
        select a.*, sum(a.tokens) over (order by a.final desc, a.place) as spent
          from (select a.* from aged a order by a.final desc, a.place limit p_limit) as a
    )
    select g.id, g.session_id, g.document_id, g.role, g.content, g.tokens, g.tags, g.metadata, g.created_at, g.final::real
      from given g where g.spent <= p_token_budget
     order by g.final desc, g.place;
end
$$;

-- Fold the tail of a store. Returns how many passages were folded; null when somebody else changes the store's postings.
create function trunkline.fold_store(p_tenant uuid, p_store uuid) returns int
    language plpgsql
    set search_path = trunkline, pg_temp
as $$
declare
    folded int;
begin
    insert into passage_statistics (tenant_id, store_id) values (p_tenant, p_store) on conflict do nothing;
    perform from passage_statistics s where s.tenant_id = p_tenant and s.store_id = p_store for update skip locked;
    if not found then
        return null;
    end if;
    with taken as (
        delete from passage_tail t using passages p
         where t.tenant_id = p_tenant and t.store_id = p_store
           and p.tenant_id = t.tenant_id and p.store_id = t.store_id and p.place = t.place
        returning p.place, p.length, p.terms
    ), counted as (
        update passage_statistics s set passages = s.passages + c.passages, length = s.length + c.length
          from (select count(*) as passages, coalesce(sum(taken.length), 0) as length from taken) as c
         where s.tenant_id = p_tenant and s.store_id = p_store
    ), found as (
        select w.lexeme as word, t.place, cardinality(w.positions) << 16 | least(t.length, 65535) as weight,
               row_number() over (partition by w.lexeme order by t.place) - 1 as nth
          from taken t cross join lateral unnest(t.terms) as w
    ), ends as (                       -- where each word's postings end: its last part, and how many are in it
        select f.word, coalesce(l.part, 0) as part, coalesce(cardinality(l.places), 0) as filled
          from (select distinct word from found) as f
          left join lateral (
               select p.part, p.places from passage_postings p
                where p.tenant_id = p_tenant and p.store_id = p_store and p.word = f.word
                order by p.part desc limit 1) as l on true
    ), posted as (
        insert into passage_postings as p (tenant_id, store_id, word, part, places, weights)
        select p_tenant, p_store, f.word, e.part + (e.filled + f.nth) / 128,
               array_agg(f.place order by f.place), array_agg(f.weight order by f.place)
          from found f join ends e on e.word = f.word
         group by f.word, e.part + (e.filled + f.nth) / 128
        on conflict (tenant_id, store_id, word, part)
        do update set places = p.places || excluded.places, weights = p.weights || excluded.weights
    )
    select count(*) into folded from taken;
    return folded;
end
$$;

-- Fold the tail of one store that has 64 passages in it and a tenth of what is folded, or 1,000. Returns how many passages were
-- folded; 0 when there is no such store that nobody else is folding. Looks across tenants, and tells of none.
drop function trunkline.fold_tail(int);
create function trunkline.fold_tail() returns int
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
declare
    store  record;
    folded int;
begin
    for store in
        select t.tenant_id, t.store_id from passage_tail t where hashint8(t.place) & 31 = 0
         group by t.tenant_id, t.store_id having count(*) >= 2 order by count(*) desc limit 100
    loop
        continue when (select count(*) from passage_tail t where t.tenant_id = store.tenant_id and t.store_id = store.store_id)
                      < greatest(64, least(1000, (select s.passages from passage_statistics s
                                                   where s.tenant_id = store.tenant_id and s.store_id = store.store_id) / 10));
        folded := fold_store(store.tenant_id, store.store_id);
        if folded > 0 then
            return folded;
        end if;
    end loop;
    return 0;
end
$$;

-- The trigger makes the terms, so those who write do not.
do $$
declare
    name text;
    old  text;
    new  text;
begin
    foreach name in array array['record_turn', 'record_turns'] loop
        old := (select pg_get_functiondef(p.oid) from pg_proc p
                 where p.pronamespace = 'trunkline'::regnamespace and p.proname = name);
        new := regexp_replace(replace(old, 'content, tokens, terms, created_at)', 'content, tokens, created_at)'),
                              '\s*to_tsvector\(''english'', left\(m\.text, 65536\)\),', '');
        if new = old or new ~ 'terms' then
            raise exception '% does not write passages as expected', name;
        end if;
        execute new;
    end loop;
end
$$;

revoke execute on function trunkline.trigrams(text), trunkline.similar_words(uuid, uuid, text[]),
    trunkline.fold_store(uuid, uuid), trunkline.fold_tail(),
    trunkline.recall(uuid, uuid, text, int, int, uuid, halfvec, text, timestamptz, timestamptz, text[], uuid[], text[], jsonb,
                     interval) from public;
grant execute on function
    trunkline.recall(uuid, uuid, text, int, int, uuid, halfvec, text, timestamptz, timestamptz, text[], uuid[], text[], jsonb,
                     interval), trunkline.fold_tail() to trunkline_control;
