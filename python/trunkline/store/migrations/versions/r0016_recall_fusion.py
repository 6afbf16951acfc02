from trunkline.store.migrate import run_migration

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    """Run `0016_recall_fusion.sql`."""
    run_migration("0016_recall_fusion.sql")
