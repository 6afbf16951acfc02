from trunkline.store.migrate import run_migration

revision = "0041"
down_revision = "0040"


def upgrade() -> None:
    """Run `0041_key_grants.sql`."""
    run_migration("0041_key_grants.sql")
