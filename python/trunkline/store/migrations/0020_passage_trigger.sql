-- What a passage's row is made of, in one statement instead of four: 65 µs of processor time a passage instead of 90.

set local role trunkline_owner;

create or replace function trunkline.passage_indexed() returns trigger
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
declare
    v_series bigint := passage_series(coalesce(new.session_id, new.document_id, new.id)) << 19;
    v_last   bigint;
begin
    select t.terms, coalesce((select sum(cardinality(w.positions)) from unnest(t.terms) as w), 0),
           case when length(t.terms) > 0 then hashtextextended(array_to_string(tsvector_to_array(t.terms), ' '), 0) end,
           case when tg_op = 'INSERT' then
               (select max(p.place) from passages p
                 where p.tenant_id = new.tenant_id and p.store_id = new.store_id and p.place between v_series and v_series + 524287) end
      into new.terms, new.length, new.likeness, v_last
      from (select to_tsvector(coalesce((select s.language from memory_stores s
                                          where s.tenant_id = new.tenant_id and s.id = new.store_id), 'simple')::regconfig,
                               left(new.content, 65536)) as terms offset 0) as t;
    if tg_op = 'INSERT' then
        new.place := case when v_last is null then v_series
                          when v_last = v_series + 524287 then passage_series(new.id) << 19 -- full: this one stands alone
                          else v_last + 1 end;
    end if;
    return new;
end
$$;
