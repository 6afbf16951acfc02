-- Workers: who lives, so that what a dead one held is free at once.

-- name: hold
-- Hold a worker's name as long as this transaction lasts.
select trunkline.hold_worker($1);

-- name: register
-- Let it be known that there is a worker, who holds its name.
select trunkline.register_worker($1, $2);

-- name: select_gone
-- The workers whose names nobody holds.
select name from trunkline.gone_workers() as name;

-- name: forget
-- Free what workers that are gone have held.
select trunkline.forget_workers($1::text[]);
