from trunkline.store.migrate import run_migration

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    """Run `0015_response_cache.sql`."""
    run_migration("0015_response_cache.sql")
