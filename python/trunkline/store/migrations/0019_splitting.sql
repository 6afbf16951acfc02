-- Long passages are split: a search gives what answers, not the page around it, and embedders read only so much.

set local role trunkline_owner;

-- The parts of a text, in their order, each of at most `p_most` characters. A part ends with a sentence or line, if one ends in
-- its second half; else between words; else anywhere. The next one begins with the last sentence of the one before, if that
-- has no more than `p_overlap` characters, so that a word that points back has something to point to. The same text gives
-- the same parts.
create function trunkline.split_text(p_text text, p_most int default 1200, p_overlap int default 200) returns setof text
    language plpgsql immutable parallel safe
    set search_path = pg_catalog, pg_temp
as $$
declare
    rest text := btrim(p_text, E' \t\r\n');
    head text;
    cut  int;
    last int;
begin
    while length(rest) > p_most loop
        head := left(rest, p_most);
        -- Greedy: up to the last end of a sentence (with what closes after it) or of a line.
        cut := length(substring(head from '^.*(?:[.!?…]["''”’)\]]*\s|[。！？]|\n)'));
        if cut is null or cut < p_most / 2 then
            cut := length(substring(head from '^.*\s'));
            if cut is null or cut < p_most / 2 then
                cut := p_most;
            end if;
        end if;
        head := left(rest, cut);
        return next btrim(head, E' \t\r\n');
        last := length(substring(rtrim(head, E' \t\r\n') from '^.*(?:[.!?…]["''”’)\]]*\s|[。！？](?=.)|\n)'));
        if last is null or cut - last > p_overlap then
            last := cut;
        end if;
        rest := ltrim(substr(rest, last + 1), E' \t\r\n');
    end loop;
    if rest ~ '\S' then
        return next rest;
    end if;
end
$$;

-- The id of a passage's part: its own with the last 16 bits counted on, so that the same text gives the same ids and they
-- sort as the parts do.
create function trunkline.part_id(p_id uuid, p_part bigint) returns uuid
    language sql immutable parallel safe
return (substr(p_id::text, 1, 32)
        || lpad(to_hex((('x' || substr(p_id::text, 33))::bit(16)::int + p_part) & 65535), 4, '0'))::uuid;

-- Whoever writes a long passage: it keeps its first part, and the others follow it.
create function trunkline.passages_split() returns trigger
    language plpgsql security definer
    set search_path = trunkline, pg_temp
as $$
begin
    if not exists (select from written w where length(w.content) > 1200) then
        return null;
    end if;
    with parts as materialized (
        select w.*, s.part, s.nth
          from written w cross join lateral split_text(w.content) with ordinality as s (part, nth)
         where length(w.content) > 1200
    ), firsts as (
        update passages p set content = s.part, tokens = (octet_length(s.part) + 3) / 4
          from parts s
         where s.nth = 1 and p.tenant_id = s.tenant_id and p.store_id = s.store_id and p.id = s.id
    )
    insert into passages (tenant_id, store_id, id, session_id, event_id, document_id, role, content, tokens, tags, metadata, created_at)
    select s.tenant_id, s.store_id, part_id(s.id, s.nth - 1), s.session_id, s.event_id, s.document_id, s.role, s.part,
           (octet_length(s.part) + 3) / 4, s.tags, s.metadata, s.created_at
      from parts s where s.nth > 1
     order by s.place, s.nth
    on conflict do nothing;
    return null;
end
$$;

-- Its name has it come after the trigger that puts passages into recall's index.
create trigger written_split after insert on trunkline.passages
    referencing new table as written for each statement execute function trunkline.passages_split();

revoke execute on function trunkline.split_text(text, int, int), trunkline.part_id(uuid, bigint), trunkline.passages_split() from public;
grant execute on function trunkline.split_text(text, int, int), trunkline.part_id(uuid, bigint) to trunkline_control;
