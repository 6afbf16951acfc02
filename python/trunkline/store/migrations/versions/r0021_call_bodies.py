from trunkline.store.migrate import run_migration

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    """Run `0021_call_bodies.sql`."""
    run_migration("0021_call_bodies.sql")
