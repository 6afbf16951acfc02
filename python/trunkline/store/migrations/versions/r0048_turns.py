from trunkline.store.migrate import run_migration

revision = "0048"
down_revision = "0047"


def upgrade() -> None:
    """Run `0048_turns.sql`."""
    run_migration("0048_turns.sql")
