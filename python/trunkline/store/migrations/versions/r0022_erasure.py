from trunkline.store.migrate import run_migration

revision = "0022"
down_revision = "0021"


def upgrade() -> None:
    """Run `0022_erasure.sql`."""
    run_migration("0022_erasure.sql")
