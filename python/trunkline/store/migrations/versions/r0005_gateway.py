from trunkline.store.migrate import run_migration

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Run `0005_gateway.sql`."""
    run_migration("0005_gateway.sql")
