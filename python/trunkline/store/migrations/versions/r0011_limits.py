from trunkline.store.migrate import run_migration

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Run `0011_limits.sql`."""
    run_migration("0011_limits.sql")
