"""Alembic's entry: `migrate` hands over the database URL; each revision runs in a transaction of its own."""

from alembic import context
from psycopg import connect
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

database_url: str = context.config.attributes["database_url"]
engine = create_engine("postgresql+psycopg://", creator=lambda: connect(database_url), poolclass=NullPool)
with engine.connect() as connection:
    context.configure(connection=connection, version_table_schema="trunkline", transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()
