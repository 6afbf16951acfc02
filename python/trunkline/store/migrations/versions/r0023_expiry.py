from trunkline.store.migrate import run_migration

revision = "0023"
down_revision = "0022"


def upgrade() -> None:
    """Run `0023_expiry.sql`."""
    run_migration("0023_expiry.sql")
