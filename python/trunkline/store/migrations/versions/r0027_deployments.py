from trunkline.store.migrate import run_migration

revision = "0027"
down_revision = "0026"


def upgrade() -> None:
    """Run `0027_deployments.sql`."""
    run_migration("0027_deployments.sql")
