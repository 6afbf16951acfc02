from trunkline.store.migrate import run_migration

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Run `0004_recall.sql`."""
    run_migration("0004_recall.sql")
