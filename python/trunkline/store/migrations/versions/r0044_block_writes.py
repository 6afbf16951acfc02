from trunkline.store.migrate import run_migration

revision = "0044"
down_revision = "0043"


def upgrade() -> None:
    """Run `0044_block_writes.sql`."""
    run_migration("0044_block_writes.sql")
