from trunkline.store.migrate import run_migration

revision = "0046"
down_revision = "0045"


def upgrade() -> None:
    """Run `0046_redaction.sql`."""
    run_migration("0046_redaction.sql")
