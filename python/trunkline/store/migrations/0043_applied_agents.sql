-- Agents that were made from files: these alone are archived when the files no longer name them.

set local role trunkline_owner;

alter table trunkline.agents add column applied boolean not null default false;
