-- What each session that a deployment starts may cost.

set local role trunkline_owner;

alter table trunkline.deployments add column budget jsonb;  -- as on the wire; null: what the agent's limits say
