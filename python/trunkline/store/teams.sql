-- Teams.

-- name: insert_team
-- Insert a team; no row comes back if its name is taken.
insert into trunkline.teams (tenant_id, id, name, created_at, updated_at) values ($1, $2, $3, $4, $4)
    on conflict (tenant_id, name) where archived_at is null do nothing
returning id;

-- name: update_team
-- Rename a team in use; no row comes back if another has that name.
update trunkline.teams t set name = $3, updated_at = $4
 where t.tenant_id = $1 and t.id = $2
   and not exists (select from trunkline.teams o
                    where o.tenant_id = $1 and o.name = $3 and o.id <> $2 and o.archived_at is null)
returning t.id;

-- name: select_team
-- One team by its id, or one in use by its name, with its limits and what it has used.
select t.id, t.name, t.created_at, t.updated_at, t.archived_at, l.*,
       (select trunkline.limits_json(u) from trunkline.limits u
         where u.tenant_id = t.tenant_id and u.kind = 'users_of_team' and u.subject = t.id::text) as users
  from trunkline.teams t
 cross join lateral trunkline.limits_of(t.tenant_id, 'team', t.id::text) l
 where t.tenant_id = $1 and (t.id = $2::uuid or ($2 is null and t.name = $3 and t.archived_at is null));

-- name: list_teams
-- A page of teams in use with their limits and what they have used, newest first, after the position ($2, $3).
select t.id, t.name, t.created_at, t.updated_at, t.archived_at, l.*,
       (select trunkline.limits_json(u) from trunkline.limits u
         where u.tenant_id = t.tenant_id and u.kind = 'users_of_team' and u.subject = t.id::text) as users
  from trunkline.teams t
 cross join lateral trunkline.limits_of(t.tenant_id, 'team', t.id::text) l
 where t.tenant_id = $1 and t.archived_at is null
   and ($2::timestamptz is null or (t.created_at, t.id) < ($2, $3::uuid))
 order by t.created_at desc, t.id desc
 limit $4;

-- name: end_team
-- End a team, and with it its keys; ended before, it keeps its time.
with ended as (
    update trunkline.teams set archived_at = coalesce(archived_at, $3) where tenant_id = $1 and id = $2 returning id
)
update trunkline.api_keys k set revoked_at = coalesce(k.revoked_at, $3)
  from ended where k.tenant_id = $1 and k.team_id = ended.id;
