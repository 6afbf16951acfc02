from trunkline.store.migrate import run_migration

revision = "0008"
down_revision = "0006"


def upgrade() -> None:
    """Run `0008_recording.sql`."""
    run_migration("0008_recording.sql")
