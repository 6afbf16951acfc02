from trunkline.store.migrate import run_migration

revision = "0036"
down_revision = "0035"


def upgrade() -> None:
    """Run `0036_prompt_prefixes.sql`."""
    run_migration("0036_prompt_prefixes.sql")
