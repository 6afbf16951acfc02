from trunkline.store.migrate import run_migration

revision = "0029"
down_revision = "0028"


def upgrade() -> None:
    """Run `0029_deployments.sql`."""
    run_migration("0029_deployments.sql")
