from trunkline.store.migrate import run_migration

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Run `0014_blocks.sql`."""
    run_migration("0014_blocks.sql")
