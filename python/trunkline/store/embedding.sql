-- What waits for its embedding, and embeddings. The functions look across tenants where they are not given one.

-- name: configure
-- Say which embedder workers have; null: none.
select trunkline.configure_embedder($1);

-- name: survey
-- Queue what the next $1 stores hold without an embedding of the configured model.
select trunkline.survey_stores($1) as stores;

-- name: survey_again
-- Have all stores looked through again.
select trunkline.survey_again();

-- name: claim
-- Take up to $1 passages of one tenant for $2 seconds.
select tenant_id, store_id, place, token, content from trunkline.claim_passages($1, $2);

-- name: store
-- Store the embeddings of claimed passages; tells how many do not fit.
select trunkline.store_embeddings($1, $2, $3, $4, $5, $6, $7) as misfits;

-- name: put_back
-- Leave claimed passages for later, with what went wrong.
select trunkline.put_back_passages($1, $2, $3, $4, $5, $6, $7, $8);

-- name: switch
-- Have the stores that are complete searched by the configured model.
select trunkline.switch_stores() as stores;

-- name: delete_old
-- Delete up to $1 embeddings that no search uses.
select trunkline.delete_old_embeddings($1) as embeddings;

-- name: shelve
-- Go on with the index of a store that has more than $1 embeddings, by up to $2 of them.
select trunkline.shelve_embeddings($1, $2) as more;

-- name: set_lock_timeout
-- Wait at most two seconds for a lock, in this transaction: whoever holds it is a search.
select set_config('lock_timeout', '2s', true);

-- name: status
-- How far the stores of a tenant are.
select store_id, model, next_model, passages, embedded, waiting, failing, fault, message, indexed
  from trunkline.embedding_status($1, $2);

-- name: embed_again
-- Embed a store anew; tells how many passages wait.
select trunkline.embed_again($1, $2) as waiting;

-- name: model_of_store
-- The model whose embeddings a store is searched by.
select embedding_model from trunkline.memory_stores where tenant_id = $1 and id = $2;
