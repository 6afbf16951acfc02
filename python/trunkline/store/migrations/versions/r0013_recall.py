from trunkline.store.migrate import run_migration

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Run `0013_recall.sql`."""
    run_migration("0013_recall.sql")
