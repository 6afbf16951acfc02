-- Steps of turns: what workers append to the sessions that they hold.

-- name: append_steps
-- Save steps; tell of each, by its place, what became of it. $2: wait for sessions that somebody is writing to.
select nth, outcome from trunkline.append_steps($1, $2);
