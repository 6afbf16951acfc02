-- Redaction. $1 is the tenant.

-- name: select_redaction
-- What is looked for in what agents ($2) write, or is written into a store ($3); null: nothing.
select trunkline.redaction($1, $2, $3) as wanted;
