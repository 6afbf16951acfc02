-- What is given to a store from outside: turns of conversations, and documents in pieces.

-- name: insert_passages
-- Keep passages in the order of the array; what is there already stays as it is. Long ones are split here, so that their parts
-- stand between their neighbours. Tells how many passages are new.
with given as (
    select (i.item ->> 'id')::uuid as id, (i.item ->> 'session_id')::uuid as session_id, (i.item ->> 'document_id')::uuid as document_id,
           i.item ->> 'role' as role, coalesce(i.item -> 'metadata', '{}') as metadata,
           array(select jsonb_array_elements_text(i.item -> 'tags')) as tags,
           coalesce((i.item ->> 'created_at')::timestamptz, $3) as created_at, i.nth, s.part, s.piece
      from jsonb_array_elements($4::jsonb) with ordinality as i (item, nth)
     cross join lateral trunkline.split_text(i.item ->> 'content') with ordinality as s (piece, part)
), added as (
    insert into trunkline.passages (tenant_id, store_id, id, session_id, document_id, role, content, tokens, tags, metadata, created_at)
    select $1, $2, trunkline.part_id(g.id, g.part - 1), g.session_id, g.document_id, g.role, g.piece,
           (octet_length(g.piece) + 3) / 4, g.tags, g.metadata, g.created_at
      from given g
     order by g.nth, g.part
    on conflict (tenant_id, store_id, id) do nothing
    returning 1
)
select (select count(*) from added) as added, (select count(*) from given) as given;

-- name: select_passage
-- Whether a passage is there.
select 1 as found from trunkline.passages where tenant_id = $1 and store_id = $2 and id = $3;

-- name: delete_document
-- Delete the pieces of a document.
delete from trunkline.passages where tenant_id = $1 and store_id = $2 and document_id = $3;
