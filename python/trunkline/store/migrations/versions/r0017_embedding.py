from trunkline.store.migrate import run_migration

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    """Run `0017_embedding.sql`."""
    run_migration("0017_embedding.sql")
