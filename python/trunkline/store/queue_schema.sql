-- name: create_queue_schema
-- The schema of procrastinate's tables and functions, which name none themselves.
create schema if not exists trunkline_queue authorization trunkline_owner;

-- name: enter_queue_schema
-- Have unqualified names mean the queue's, until the transaction ends.
set local search_path = trunkline_queue;

-- name: grant_schema
-- Let workers see the queue.
grant usage on schema trunkline_queue to trunkline_control;

-- name: grant_tables
-- Let workers put in and take out jobs.
grant all on all tables in schema trunkline_queue to trunkline_control;

-- name: grant_sequences
-- Job ids come from sequences.
grant all on all sequences in schema trunkline_queue to trunkline_control;

-- name: grant_functions
-- The queue works through its functions.
grant execute on all functions in schema trunkline_queue to trunkline_control;
