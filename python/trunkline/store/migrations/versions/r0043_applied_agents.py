from trunkline.store.migrate import run_migration

revision = "0043"
down_revision = "0042"


def upgrade() -> None:
    """Run `0043_applied_agents.sql`."""
    run_migration("0043_applied_agents.sql")
