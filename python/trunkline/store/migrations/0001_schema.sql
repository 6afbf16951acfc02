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
        if not pg_has_role(current_user, role_name, 'member') then
            execute format('grant %I to current_user', role_name);
        end if;
    end loop;
end
$$;

create extension if not exists vector;

create schema if not exists trunkline authorization trunkline_owner;
grant usage on schema trunkline to trunkline_gateway, trunkline_control;
