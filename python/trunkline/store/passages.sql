-- Passages: turns, word for word, for recall.

-- name: recall
-- The passages of a store that answer a text, best first, within a number of passages and of tokens.
select passage_id as id, session_id, role, content, tokens, created_at, score
  from trunkline.recall($1, $2, $3, $4, $5, $6);

-- name: insert_passage
-- Keep a text for recall; searchable when the transaction commits.
insert into trunkline.passages (tenant_id, store_id, id, session_id, event_id, role, content, tokens, created_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9);

-- name: fold_tail
-- Fold what was written to one store, of any tenant, into the index that searches read; 0 when no store needs it.
select trunkline.fold_tail() as folded;
