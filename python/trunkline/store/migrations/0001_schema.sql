-- Roles, schema and extension. Run by a login that may create roles and the extension.
-- The roles belong to the cluster, so another database of the same cluster may have made them already.

do $$
declare
    role_name text;
begin
    foreach role_name in array array['trunkline_owner', 'trunkline_gateway', 'trunkline_control'] loop
        begin
            execute format('create role %I nologin', role_name);
        exception when duplicate_object or unique_violation then
            null;
        end;
        -- Making a role is not yet being allowed to take it on (Postgres 16 and later); a superuser is.
        if not (select rolsuper from pg_roles where rolname = current_user) then
            begin
                execute format('grant %I to current_user', role_name);
            exception when insufficient_privilege then
                null; -- an administrator made the roles and decides who may take them on
            end;
        end if;
    end loop;
end
$$;

create extension if not exists vector;

-- The schema is there already, made by the migrating login for the table of versions.
alter schema trunkline owner to trunkline_owner;
grant usage on schema trunkline to trunkline_gateway, trunkline_control;
