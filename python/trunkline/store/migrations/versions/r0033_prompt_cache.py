from trunkline.store.migrate import run_migration

revision = "0033"
down_revision = "0032"


def upgrade() -> None:
    """Run `0033_prompt_cache.sql`."""
    run_migration("0033_prompt_cache.sql")
