from trunkline.store.migrate import run_migration

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Run `0012_recall_index.sql`."""
    run_migration("0012_recall_index.sql")
