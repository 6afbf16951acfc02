from trunkline.store.migrate import run_migration

revision = "0049"
down_revision = "0048"


def upgrade() -> None:
    """Run `0049_turns.sql`."""
    run_migration("0049_turns.sql")
