-- Renewals of access tokens in vaults. $1 is the tenant and $2 the credential.

-- name: lock_credential
-- A credential in force with what is sealed of it, kept from others' changes until the transaction ends.
select c.id, c.vault_id, c.display_name, c.target, c.auth, c.metadata, c.created_at, c.updated_at, c.archived_at, c.sealed
  from trunkline.vault_credentials c
 where c.tenant_id = $1 and c.id = $2 and c.archived_at is null
   for update;

-- name: select_renewal
-- The renewal that is under way, or has just failed.
select r.until, r.error from trunkline.credential_renewals r
 where r.tenant_id = $1 and r.credential_id = $2 and r.until > clock_timestamp();

-- name: begin_renewal
-- Begin a renewal of a locked credential, which others leave alone for $3 seconds.
insert into trunkline.credential_renewals as r (tenant_id, credential_id, until)
values ($1, $2, clock_timestamp() + make_interval(secs => $3))
on conflict (tenant_id, credential_id) do update set until = excluded.until, error = null
returning r.until;

-- name: end_renewal
-- End a renewal, unless another has taken it for dead and has begun its own.
delete from trunkline.credential_renewals where tenant_id = $1 and credential_id = $2 and until = $3;

-- name: fail_renewal
-- Note why a renewal failed, for $4 seconds, unless another has begun its own.
update trunkline.credential_renewals set until = clock_timestamp() + make_interval(secs => $4), error = $5
 where tenant_id = $1 and credential_id = $2 and until = $3;

-- name: forget_failure
-- Have a renewal that failed tried again at once; one that is under way stays.
delete from trunkline.credential_renewals where tenant_id = $1 and credential_id = $2 and error is not null;
