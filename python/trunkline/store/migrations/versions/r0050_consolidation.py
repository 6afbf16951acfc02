from trunkline.store.migrate import run_migration

revision = "0050"
down_revision = "0049"


def upgrade() -> None:
    """Run `0050_consolidation.sql`."""
    run_migration("0050_consolidation.sql")
