from trunkline.store.migrate import run_migration

revision = "0047"
down_revision = "0046"


def upgrade() -> None:
    """Run `0047_consolidation.sql`."""
    run_migration("0047_consolidation.sql")
