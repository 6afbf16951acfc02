from trunkline.store.migrate import run_migration

revision = "0028"
down_revision = "0027"


def upgrade() -> None:
    """Run `0028_embedding_signs.sql`."""
    run_migration("0028_embedding_signs.sql")
