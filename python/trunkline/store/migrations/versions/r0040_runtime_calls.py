from trunkline.store.migrate import run_migration

revision = "0040"
down_revision = "0039"


def upgrade() -> None:
    """Run `0040_runtime_calls.sql`."""
    run_migration("0040_runtime_calls.sql")
