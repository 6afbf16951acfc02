from trunkline.store.migrate import run_migration

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Run `0010_usage_reports.sql`."""
    run_migration("0010_usage_reports.sql")
