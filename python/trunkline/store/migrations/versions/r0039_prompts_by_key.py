from trunkline.store.migrate import run_migration

revision = "0039"
down_revision = "0038"


def upgrade() -> None:
    """Run `0039_prompts_by_key.sql`."""
    run_migration("0039_prompts_by_key.sql")
