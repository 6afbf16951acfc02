from trunkline.store.migrate import run_migration

revision = "0034"
down_revision = "0033"


def upgrade() -> None:
    """Run `0034_prompts_forgotten.sql`."""
    run_migration("0034_prompts_forgotten.sql")
