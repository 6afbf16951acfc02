from trunkline.store.migrate import run_migration

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    """Run `0018_embedding.sql`."""
    run_migration("0018_embedding.sql")
