from trunkline.store.migrate import run_migration

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Run `0006_runtime.sql`."""
    run_migration("0006_runtime.sql")
