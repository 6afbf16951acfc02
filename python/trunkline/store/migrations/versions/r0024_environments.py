from trunkline.store.migrate import run_migration

revision = "0024"
down_revision = "0023"


def upgrade() -> None:
    """Run `0024_environments.sql`."""
    run_migration("0024_environments.sql")
