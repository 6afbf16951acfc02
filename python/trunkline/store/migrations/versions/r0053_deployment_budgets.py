from trunkline.store.migrate import run_migration

revision = "0053"
down_revision = "0052"


def upgrade() -> None:
    """Run `0053_deployment_budgets.sql`."""
    run_migration("0053_deployment_budgets.sql")
