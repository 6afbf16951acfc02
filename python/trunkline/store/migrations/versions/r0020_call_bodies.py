from trunkline.store.migrate import run_migration

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    """Run `0020_call_bodies.sql`."""
    run_migration("0020_call_bodies.sql")
