-- Passages: turns, word for word, for recall.

-- name: recall
-- The passages of a store that answer a text and its embedding by a model, best first, within a number of passages and of
-- tokens.
select passage_id as id, session_id, document_id, role, content, tokens, tags, metadata, created_at, score
  from trunkline.recall($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15);

-- name: lock_sessions
-- Be the only one to add to these sessions of a store, until the transaction ends.
select pg_advisory_xact_lock(hashtextextended($1::uuid::text || session_id, 0))
  from (select distinct session_id from unnest($2::text[]) as session_id order by 1) as sessions;

-- name: fold_tail
-- Fold what was written to one store, of any tenant, into the index that searches read; 0 when no store needs it.
select trunkline.fold_tail() as folded;
