from trunkline.store.migrate import run_migration

revision = "0025"
down_revision = "0024"


def upgrade() -> None:
    """Run `0025_files.sql`."""
    run_migration("0025_files.sql")
