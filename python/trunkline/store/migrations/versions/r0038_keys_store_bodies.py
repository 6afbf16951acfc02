from trunkline.store.migrate import run_migration

revision = "0038"
down_revision = "0037"


def upgrade() -> None:
    """Run `0038_keys_store_bodies.sql`."""
    run_migration("0038_keys_store_bodies.sql")
