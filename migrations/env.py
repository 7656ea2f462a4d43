"""Run migrations: one at a time across processes, one transaction each, and never waiting long for a lock."""

import asyncio

import sqlalchemy as sa
from alembic import context
from sqlalchemy.ext.asyncio import create_async_engine

from app.store.tables import metadata

# Any constant will do as long as it is ours: two releases that migrate at once take turns.
ADVISORY_LOCK = 0x686F6C64


def _migrate(connection: sa.Connection) -> None:
    # Another's migration may take longer than any statement or lock of ours should.
    connection.execute(sa.text("set local lock_timeout = 0"))
    connection.execute(sa.text("set local statement_timeout = 0"))
    connection.execute(sa.text(f"select pg_advisory_lock({ADVISORY_LOCK})"))
    connection.commit()
    context.configure(connection=connection, target_metadata=metadata, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()
    connection.execute(sa.text(f"select pg_advisory_unlock({ADVISORY_LOCK})"))
    connection.commit()


async def _online() -> None:
    engine = create_async_engine(
        context.config.get_main_option("sqlalchemy.url") or "",
        poolclass=sa.NullPool,
        connect_args={"server_settings": {"statement_timeout": "60s", "lock_timeout": "5s"}},
    )
    async with engine.connect() as connection:
        await connection.run_sync(_migrate)
    await engine.dispose()


if context.is_offline_mode():
    context.configure(dialect_name="postgresql", target_metadata=metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    asyncio.run(_online())
