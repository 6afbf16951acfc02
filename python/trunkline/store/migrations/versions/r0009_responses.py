from trunkline.store.migrate import run_migration

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Run `0009_responses.sql`."""
    run_migration("0009_responses.sql")
