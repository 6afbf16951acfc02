from trunkline.store.migrate import run_migration

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Run `0003_isolation.sql`."""
    run_migration("0003_isolation.sql")
