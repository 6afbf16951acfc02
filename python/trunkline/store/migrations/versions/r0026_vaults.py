from trunkline.store.migrate import run_migration

revision = "0026"
down_revision = "0025"


def upgrade() -> None:
    """Run `0026_vaults.sql`."""
    run_migration("0026_vaults.sql")
