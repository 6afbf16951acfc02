-- Files. $1 is the tenant and $2, in what reads, the only agent that the key may act for (null: any).

-- name: insert_file
-- Insert a file, without its bytes.
insert into trunkline.files (tenant_id, id, agent_id, session_id, filename, mime_type, size_bytes, created_at, expires_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9);

-- name: insert_piece
-- Insert a piece of a file's bytes.
insert into trunkline.file_pieces (tenant_id, file_id, position, bytes) values ($1, $2, $3, $4);

-- name: select_files
-- Those files of these ids that are not past their time ($4).
select f.id, f.agent_id, f.session_id, f.filename, f.mime_type, f.size_bytes, f.created_at, f.expires_at
  from trunkline.files f
 where f.tenant_id = $1 and ($2::uuid is null or f.agent_id = $2) and f.id = any ($3::uuid[])
   and (f.expires_at is null or f.expires_at > $4);

-- name: select_piece
-- A piece of a file's bytes; it needs no agent: who asks has read the file before.
select p.bytes from trunkline.file_pieces p where p.tenant_id = $1 and p.file_id = $2 and p.position = $3;

-- name: list_files
-- A page of files, newest first, after the position ($3, $4).
select f.id, f.agent_id, f.session_id, f.filename, f.mime_type, f.size_bytes, f.created_at, f.expires_at
  from trunkline.files f
 where f.tenant_id = $1 and ($2::uuid is null or f.agent_id = $2)
   and ($3::timestamptz is null or (f.created_at, f.id) < ($3, $4::uuid))
   and ($5::uuid is null or f.session_id = $5)
   and ($6::uuid[] is null or f.id = any ($6))
   and (f.expires_at is null or f.expires_at > $7)
 order by f.created_at desc, f.id desc
 limit $8;

-- name: delete_file
-- Delete a file with its bytes.
delete from trunkline.files where tenant_id = $1 and ($2::uuid is null or agent_id = $2) and id = $3 returning id;

-- name: expire_files
-- Delete up to $1 files that are past their time, of all tenants.
select trunkline.expire_files($1) as deleted;
