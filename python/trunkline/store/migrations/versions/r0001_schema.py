from trunkline.store.migrate import run_migration

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Run `0001_schema.sql`."""
    run_migration("0001_schema.sql")
