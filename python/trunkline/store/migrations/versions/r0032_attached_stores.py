from trunkline.store.migrate import run_migration

revision = "0032"
down_revision = "0031"


def upgrade() -> None:
    """Run `0032_attached_stores.sql`."""
    run_migration("0032_attached_stores.sql")
