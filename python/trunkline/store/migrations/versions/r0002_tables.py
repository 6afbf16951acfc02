from trunkline.store.migrate import run_migration

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Run `0002_tables.sql`."""
    run_migration("0002_tables.sql")
