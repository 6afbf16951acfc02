-- The index of recall. A passage that is written is at once in `passage_tail`, which searches read as it is; the worker
-- folds tails into `passage_postings`: for each word of a store, the passages that have it. So a writer pays for one narrow
-- row whatever its text's length, writers of one store do not wait for each other, and a search reads a few rows a word,
-- of its own store alone. What a search finds does not depend on how much has been folded.
--
-- Embeddings lie beside the passages, by model, so that a store can change its model while it is searched.

set local role trunkline_owner;

alter table trunkline.memory_stores
    -- A text search configuration: which words are left out, and how the others are stemmed.
    add column language        text not null default 'english' check (language ~ '^[a-z]{2,32}$'),
    add column embedding_model text;                 -- whose embeddings are searched; null: none

drop index trunkline.passages_terms;
drop function trunkline.recall(uuid, uuid, text, int, int, uuid);
drop function trunkline.recall_query(text);

-- `terms`, `length`, `likeness` and `place` are filled in by a trigger, whoever writes.
alter table trunkline.passages
    drop column embedding,
    drop column embedding_model,
    alter column terms set default '',
    add column document_id uuid,                     -- set on the pieces of a document; then there is no session
    add column place       bigint,                   -- see `passage_series`
    add column length      int,                      -- how many words its terms stand for
    add column likeness    bigint,                   -- equal for texts of the same terms; null where there are none
    add column tags        text[] not null default '{}',
    add column metadata    jsonb  not null default '{}';

-- A place is 2^19 times the series, plus the position in it. A series is a session or a document; what has neither is its own.
-- So the places next to a passage's are its neighbours', and a range of places is a session.
-- The series is a hash: a writer finds it without asking, and the same on every machine.
create function trunkline.passage_series(p_id uuid) returns bigint
    language sql immutable parallel safe
return ('x' || left(encode(sha256(uuid_send(p_id)), 'hex'), 11))::bit(44)::bigint;

create function trunkline.passage_indexed() returns trigger
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
declare
    last   bigint;
    series bigint;
begin
    new.terms := to_tsvector(coalesce((select s.language from memory_stores s
                                        where s.tenant_id = new.tenant_id and s.id = new.store_id), 'simple')::regconfig,
                             left(new.content, 65536));
    new.length := (select coalesce(sum(cardinality(w.positions)), 0) from unnest(new.terms) as w);
    new.likeness := case when new.length > 0 then hashtextextended(array_to_string(tsvector_to_array(new.terms), ' '), 0) end;
    if tg_op = 'INSERT' then
        -- Who writes to a session or document holds a lock on it, so that no two take the same place.
        series := passage_series(coalesce(new.session_id, new.document_id, new.id)) << 19;
        last := (select max(p.place) from passages p
                  where p.tenant_id = new.tenant_id and p.store_id = new.store_id and p.place between series and series + 524287);
        new.place := case when last is null then series
                          when last = series + 524287 then passage_series(new.id) << 19 -- full: this one stands alone
                          else last + 1 end;
    end if;
    return new;
end
$$;

create trigger indexed before insert or update of content on trunkline.passages
    for each row execute function trunkline.passage_indexed();

update trunkline.passages p
   set content = p.content, place = (trunkline.passage_series(coalesce(o.session_id, o.id)) << 19) + o.position
  from (select tenant_id, store_id, id, session_id,
               row_number() over (partition by tenant_id, store_id, coalesce(session_id, id) order by created_at, id) - 1 as position
          from trunkline.passages) o
 where p.tenant_id = o.tenant_id and p.store_id = o.store_id and p.id = o.id;

alter table trunkline.passages
    alter column place set not null,
    alter column length set not null,
    add unique (tenant_id, store_id, place);

-- The passages that are not in the postings yet.
create table trunkline.passage_tail (
    tenant_id uuid   not null,
    store_id  uuid   not null,
    place     bigint not null,
    primary key (tenant_id, store_id, place)
);
-- One in 32: a store with two of them has a tail that is worth folding.
create index passage_tail_samples on trunkline.passage_tail (tenant_id, store_id) where hashint8(place) & 31 = 0;
insert into trunkline.passage_tail select tenant_id, store_id, place from trunkline.passages;

-- The places of a word; beside each, in one number, how often it stands there (times 65536) and the passage's length.
-- A part holds at most 128, so that a row stays in its page and adding to a common word rewrites little.
create table trunkline.passage_postings (
    tenant_id uuid     not null,
    store_id  uuid     not null,
    word      text     collate "C" not null,
    part      int      not null,
    places    bigint[] not null,
    weights   int[]    not null,
    primary key (tenant_id, store_id, word, part)
);

-- What a store's postings hold: how many passages, and the sum of their lengths. Its row is the lock of who changes them.
create table trunkline.passage_statistics (
    tenant_id uuid   not null,
    store_id  uuid   not null,
    passages  bigint not null default 0,
    length    bigint not null default 0,
    primary key (tenant_id, store_id)
);

-- Embeddings are of unit length, so that the inner product is the cosine.
create table trunkline.passage_embeddings (
    tenant_id uuid     not null,
    store_id  uuid     not null,
    model     text     not null,
    place     bigint   not null,
    dimension smallint not null,
    embedding halfvec  not null,
    primary key (tenant_id, store_id, model, place),
    check (vector_dims(embedding) = dimension),
    foreign key (tenant_id, store_id, place) references trunkline.passages (tenant_id, store_id, place) on delete cascade
);

do $$
declare
    name text;
begin
    foreach name in array array['passage_tail', 'passage_postings', 'passage_statistics', 'passage_embeddings'] loop
        execute format('alter table trunkline.%I enable row level security', name);
        execute format('alter table trunkline.%I force row level security', name);
        execute format('create policy one_tenant on trunkline.%I to trunkline_control
                        using (tenant_id = trunkline.current_tenant()) with check (tenant_id = trunkline.current_tenant())', name);
        execute format('create policy owner on trunkline.%I to trunkline_owner using (true) with check (true)', name);
    end loop;
end
$$;
grant select, insert, update, delete on trunkline.passage_embeddings to trunkline_control;

-- Take passages out of the index of their store: `p_lengths` are those of `p_places`.
create function trunkline.forget_places(p_tenant uuid, p_store uuid, p_places bigint[], p_lengths int[]) returns void
    language plpgsql
    set search_path = trunkline, pg_temp
as $$
declare
    unfolded bigint[];
begin
    insert into passage_statistics (tenant_id, store_id) values (p_tenant, p_store) on conflict do nothing;
    perform from passage_statistics s where s.tenant_id = p_tenant and s.store_id = p_store for update;
    with taken as (
        delete from passage_tail t where t.tenant_id = p_tenant and t.store_id = p_store and t.place = any (p_places)
        returning t.place
    )
    select array_agg(place) into unfolded from taken;
    if cardinality(unfolded) = cardinality(p_places) then
        return;
    end if;
    update passage_statistics s
       set passages = s.passages - f.passages, length = s.length - f.length
      from (select count(*) as passages, coalesce(sum(l.length), 0) as length from unnest(p_places, p_lengths) as l (place, length)
             where l.place <> all (coalesce(unfolded, '{}'))) as f
     where s.tenant_id = p_tenant and s.store_id = p_store;
    -- By the places, not by the passages' words: these may be other ones than when they were folded.
    update passage_postings p
       set (places, weights) = (select coalesce(array_agg(o.place), '{}'), coalesce(array_agg(o.weight), '{}')
                                  from unnest(p.places, p.weights) as o (place, weight)
                                 where o.place not in (select unnest(p_places)))
     where p.tenant_id = p_tenant and p.store_id = p_store
       and exists (select from unnest(p.places) as place where place in (select unnest(p_places)));
    delete from passage_postings p where p.tenant_id = p_tenant and p.store_id = p_store and p.places = '{}';
end
$$;

create function trunkline.passages_written() returns trigger
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
begin
    insert into passage_tail (tenant_id, store_id, place) select w.tenant_id, w.store_id, w.place from written w;
    return null;
end
$$;

create function trunkline.passages_rewritten() returns trigger
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
begin
    perform forget_places(o.tenant_id, o.store_id, array_agg(o.place), array_agg(o.length))
       from before o join after n using (tenant_id, store_id, place) where o.terms is distinct from n.terms
      group by o.tenant_id, o.store_id order by o.tenant_id, o.store_id;
    insert into passage_tail (tenant_id, store_id, place)
    select o.tenant_id, o.store_id, o.place
      from before o join after n using (tenant_id, store_id, place) where o.terms is distinct from n.terms;
    return null;
end
$$;

create function trunkline.passages_deleted() returns trigger
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
declare
    gone record;
begin
    for gone in
        select d.tenant_id, d.store_id, array_agg(d.place) as places, array_agg(d.length) as lengths
          from deleted d group by d.tenant_id, d.store_id order by d.tenant_id, d.store_id
    loop
        if exists (select from passages p where p.tenant_id = gone.tenant_id and p.store_id = gone.store_id) then
            perform forget_places(gone.tenant_id, gone.store_id, gone.places, gone.lengths);
        else                               -- the store's last, or the store itself
            perform from passage_statistics s where s.tenant_id = gone.tenant_id and s.store_id = gone.store_id for update;
            delete from passage_tail t
             where t.tenant_id = gone.tenant_id and t.store_id = gone.store_id and t.place = any (gone.places);
            delete from passage_postings p where p.tenant_id = gone.tenant_id and p.store_id = gone.store_id;
            delete from passage_statistics s where s.tenant_id = gone.tenant_id and s.store_id = gone.store_id;
        end if;
    end loop;
    return null;
end
$$;

create trigger written after insert on trunkline.passages
    referencing new table as written for each statement execute function trunkline.passages_written();
create trigger rewritten after update on trunkline.passages
    referencing old table as before new table as after for each statement execute function trunkline.passages_rewritten();
create trigger deleted after delete on trunkline.passages
    referencing old table as deleted for each statement execute function trunkline.passages_deleted();

-- Another language: the store's passages are read again.
create function trunkline.store_language_changed() returns trigger
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
begin
    update passages p set content = p.content where p.tenant_id = new.tenant_id and p.store_id = new.id;
    return null;
end
$$;

create trigger language_changed after update of language on trunkline.memory_stores
    for each row when (old.language is distinct from new.language) execute function trunkline.store_language_changed();

-- Fold the tail of one store that has grown past `p_least` and a tenth of what is folded (or past 1,000). Returns how
-- many passages were folded; 0 when there is no such store that nobody else is folding. Looks across tenants, and tells of none.
create function trunkline.fold_tail(p_least int default 64) returns int
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
declare
    store  record;
    known  bigint;
    folded int;
begin
    for store in
        select t.tenant_id, t.store_id from passage_tail t where hashint8(t.place) & 31 = 0
         group by t.tenant_id, t.store_id having count(*) >= least(2, p_least) order by count(*) desc limit 100
    loop
        insert into passage_statistics (tenant_id, store_id) values (store.tenant_id, store.store_id) on conflict do nothing;
        select s.passages into known from passage_statistics s
         where s.tenant_id = store.tenant_id and s.store_id = store.store_id for update skip locked;
        continue when not found;
        continue when (select count(*) from passage_tail t where t.tenant_id = store.tenant_id and t.store_id = store.store_id)
                      < greatest(p_least, least(known / 10, 1000));
        with taken as (
            delete from passage_tail t using passages p
             where t.tenant_id = store.tenant_id and t.store_id = store.store_id
               and p.tenant_id = t.tenant_id and p.store_id = t.store_id and p.place = t.place
            returning p.place, p.length, p.terms
        ), counted as (
            update passage_statistics s set passages = s.passages + c.passages, length = s.length + c.length
              from (select count(*) as passages, coalesce(sum(taken.length), 0) as length from taken) as c
             where s.tenant_id = store.tenant_id and s.store_id = store.store_id
        ), found as (
            select w.lexeme as word, t.place, cardinality(w.positions) << 16 | least(t.length, 65535) as weight,
                   row_number() over (partition by w.lexeme order by t.place) - 1 as nth
              from taken t cross join lateral unnest(t.terms) as w
        ), ends as (                       -- where each word's postings end: its last part, and how many are in it
            select f.word, coalesce(l.part, 0) as part, coalesce(cardinality(l.places), 0) as filled
              from (select distinct word from found) as f
              left join lateral (
                   select p.part, p.places from passage_postings p
                    where p.tenant_id = store.tenant_id and p.store_id = store.store_id and p.word = f.word
                    order by p.part desc limit 1) as l on true
        ), posted as (
            insert into passage_postings as p (tenant_id, store_id, word, part, places, weights)
            select store.tenant_id, store.store_id, f.word, e.part + (e.filled + f.nth) / 128,
                   array_agg(f.place order by f.place), array_agg(f.weight order by f.place)
              from found f join ends e on e.word = f.word
             group by f.word, e.part + (e.filled + f.nth) / 128
            on conflict (tenant_id, store_id, word, part)
            do update set places = p.places || excluded.places, weights = p.weights || excluded.weights
        )
        select count(*) into folded from taken;
        return folded;
    end loop;
    return 0;
end
$$;

revoke execute on function trunkline.passage_series(uuid), trunkline.passage_indexed(),
    trunkline.forget_places(uuid, uuid, bigint[], int[]), trunkline.passages_written(), trunkline.passages_rewritten(),
    trunkline.passages_deleted(), trunkline.store_language_changed(), trunkline.fold_tail(int) from public;
grant execute on function trunkline.fold_tail(int) to trunkline_control;
