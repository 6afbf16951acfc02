-- Tokens of repositories that sessions are given. $1 is the tenant and $2 the session.

-- name: put
-- Write the sealed token of a repository ($3).
insert into trunkline.repository_tokens (tenant_id, session_id, resource_id, sealed) values ($1, $2, $3, $4)
on conflict (tenant_id, session_id, resource_id) do update set sealed = excluded.sealed;

-- name: select_token
-- The sealed token of a repository ($3).
select t.sealed from trunkline.repository_tokens t where t.tenant_id = $1 and t.session_id = $2 and t.resource_id = $3;

-- name: forget
-- Delete the token of a repository ($3; null: of all of the session).
delete from trunkline.repository_tokens
 where tenant_id = $1 and session_id = $2 and ($3::uuid is null or resource_id = $3);

-- name: copy
-- Give a session's fork ($3) its tokens.
insert into trunkline.repository_tokens (tenant_id, session_id, resource_id, sealed)
select t.tenant_id, $3, t.resource_id, t.sealed from trunkline.repository_tokens t where t.tenant_id = $1 and t.session_id = $2;
