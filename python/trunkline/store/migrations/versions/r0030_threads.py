from trunkline.store.migrate import run_migration

revision = "0030"
down_revision = "0029"


def upgrade() -> None:
    """Run `0030_threads.sql`."""
    run_migration("0030_threads.sql")
