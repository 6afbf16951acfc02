from trunkline.store.migrate import run_migration

revision = "0052"
down_revision = "0051"


def upgrade() -> None:
    """Run `0052_half_life.sql`."""
    run_migration("0052_half_life.sql")
