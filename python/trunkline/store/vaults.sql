-- Vaults and their credentials. $1 is the tenant and $2, in what reads vaults, the only agent that the key may act for
-- (null: any).

-- name: insert_vault
-- Insert a vault.
insert into trunkline.vaults (tenant_id, id, agent_id, display_name, metadata, created_at, updated_at)
values ($1, $2, $3, $4, $5, $6, $6);

-- name: select_vaults
-- Those vaults of these ids that are there.
select v.id, v.agent_id, v.display_name, v.metadata, v.created_at, v.updated_at, v.archived_at
  from trunkline.vaults v
 where v.tenant_id = $1 and ($2::uuid is null or v.agent_id = $2) and v.id = any ($3::uuid[]);

-- name: lock_vault
-- A vault, kept from others' changes until the transaction ends.
select v.id, v.agent_id, v.display_name, v.metadata, v.created_at, v.updated_at, v.archived_at
  from trunkline.vaults v
 where v.tenant_id = $1 and ($2::uuid is null or v.agent_id = $2) and v.id = $3
   for update;

-- name: update_vault
-- Write a locked vault.
update trunkline.vaults set display_name = $3, metadata = $4, updated_at = $5, archived_at = $6
 where tenant_id = $1 and id = $2;

-- name: archive_credentials
-- Archive all credentials of a vault: what was secret of them goes.
update trunkline.vault_credentials set sealed = null, archived_at = $3, updated_at = $3
 where tenant_id = $1 and vault_id = $2 and archived_at is null;

-- name: delete_vault
-- Delete a vault with its credentials.
delete from trunkline.vaults where tenant_id = $1 and ($2::uuid is null or agent_id = $2) and id = $3 returning id;

-- name: list_vaults
-- A page of vaults, newest first, after the position ($3, $4).
select v.id, v.agent_id, v.display_name, v.metadata, v.created_at, v.updated_at, v.archived_at
  from trunkline.vaults v
 where v.tenant_id = $1 and ($2::uuid is null or v.agent_id = $2)
   and ($3::timestamptz is null or (v.created_at, v.id) < ($3, $4::uuid))
   and ($5 or v.archived_at is null)
 order by v.created_at desc, v.id desc
 limit $6;

-- name: insert_credential
-- Insert a credential; no row comes back if the vault has another, not archived, for the same target.
insert into trunkline.vault_credentials (tenant_id, vault_id, id, display_name, target, auth, sealed, metadata, created_at,
                                         updated_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9)
on conflict (tenant_id, vault_id, target) where archived_at is null do nothing
returning id;

-- name: select_credential
-- A credential with what is sealed of it, kept from others' changes until the transaction ends.
select c.id, c.vault_id, c.display_name, c.target, c.auth, c.metadata, c.created_at, c.updated_at, c.archived_at, c.sealed
  from trunkline.vault_credentials c
 where c.tenant_id = $1 and c.vault_id = $2 and c.id = $3
   for update;

-- name: select_for_server
-- The credential, with what is sealed of it, that the first of these vaults which the agent may use has for a URL.
select c.id, c.vault_id, c.display_name, c.target, c.auth, c.metadata, c.created_at, c.updated_at, c.archived_at, c.sealed
  from unnest($3::uuid[]) with ordinality as given (vault_id, nth)
  join trunkline.vaults v
    on v.tenant_id = $1 and v.id = given.vault_id and v.archived_at is null and (v.agent_id is null or v.agent_id = $2)
  join trunkline.vault_credentials c on c.tenant_id = $1 and c.vault_id = v.id and c.archived_at is null
 where rtrim(c.target, '/') = rtrim($4, '/') and c.auth ->> 'type' in ('mcp_oauth', 'static_bearer')
 order by given.nth
 limit 1;

-- name: update_credential
-- Write a locked credential.
update trunkline.vault_credentials
   set display_name = $3, auth = $4, sealed = $5, metadata = $6, updated_at = $7, archived_at = $8
 where tenant_id = $1 and id = $2;

-- name: delete_credential
-- Delete a locked credential.
delete from trunkline.vault_credentials where tenant_id = $1 and id = $2;

-- name: list_credentials
-- A page of a vault's credentials, newest first, after the position ($3, $4).
select c.id, c.vault_id, c.display_name, c.target, c.auth, c.metadata, c.created_at, c.updated_at, c.archived_at
  from trunkline.vault_credentials c
 where c.tenant_id = $1 and c.vault_id = $2
   and ($3::timestamptz is null or (c.created_at, c.id) < ($3, $4::uuid))
   and ($5 or c.archived_at is null)
 order by c.created_at desc, c.id desc
 limit $6;
