from trunkline.store.migrate import run_migration

revision = "0042"
down_revision = "0041"


def upgrade() -> None:
    """Run `0042_audit_log.sql`."""
    run_migration("0042_audit_log.sql")
