from trunkline.store.migrate import run_migration

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    """Run `0019_splitting.sql`."""
    run_migration("0019_splitting.sql")
