from trunkline.store.migrate import run_migration

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Run `0007_limits.sql`."""
    run_migration("0007_limits.sql")
