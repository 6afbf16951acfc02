-- Usage: a row a call, written by the gateway.

-- name: report
-- Sums over the calls that match, a row a group.
select r.row from trunkline.usage_report($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) as r (row);
