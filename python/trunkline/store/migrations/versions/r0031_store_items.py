from trunkline.store.migrate import run_migration

revision = "0031"
down_revision = "0030"


def upgrade() -> None:
    """Run `0031_store_items.sql`."""
    run_migration("0031_store_items.sql")
