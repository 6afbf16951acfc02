from trunkline.store.migrate import run_migration

revision = "0036"
down_revision = "0035"


def upgrade() -> None:
    """Run `0036_audit_log.sql`."""
    run_migration("0036_audit_log.sql")
