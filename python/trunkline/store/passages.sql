-- Passages: turns, word for word, for recall.

-- name: recall
-- The passages of a store that answer a text, best first, within a number of passages and of tokens.
select passage_id as id, session_id, role, content, tokens, created_at, score
  from trunkline.recall($1, $2, $3, $4, $5, $6);

-- name: insert_passage
-- Keep a text for recall; searchable when the transaction commits.
insert into trunkline.passages (tenant_id, store_id, id, session_id, event_id, role, content, tokens, terms, created_at)
values ($1, $2, $3, $4, $5, $6, $7::text, $8, to_tsvector('english', left($7::text, 65536)), $9);
