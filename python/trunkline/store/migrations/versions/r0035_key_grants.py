from trunkline.store.migrate import run_migration

revision = "0035"
down_revision = "0034"


def upgrade() -> None:
    """Run `0035_key_grants.sql`."""
    run_migration("0035_key_grants.sql")
