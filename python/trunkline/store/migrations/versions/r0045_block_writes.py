from trunkline.store.migrate import run_migration

revision = "0045"
down_revision = "0044"


def upgrade() -> None:
    """Run `0045_block_writes.sql`."""
    run_migration("0045_block_writes.sql")
