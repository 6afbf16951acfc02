from trunkline.store.migrate import run_migration

revision = "0037"
down_revision = "0036"


def upgrade() -> None:
    """Run `0037_applied_agents.sql`."""
    run_migration("0037_applied_agents.sql")
