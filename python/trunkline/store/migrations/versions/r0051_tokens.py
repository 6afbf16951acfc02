from trunkline.store.migrate import run_migration

revision = "0051"
down_revision = "0050"


def upgrade() -> None:
    """Run `0051_tokens.sql`."""
    run_migration("0051_tokens.sql")
