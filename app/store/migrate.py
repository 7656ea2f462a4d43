"""Bring a database to the schema that this release was written for."""

import asyncio
import sys
from io import StringIO
from pathlib import Path

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.exc import DBAPIError

import migrations
from app.errors import Unavailable

_IS_BOUND = "select row_security_active(to_regclass('api_keys')::oid)"
"""Whether this user sees a tenant's rows alone, and so not all that the server itself has to see."""


def upgrade(database_url: str) -> None:
    """Apply what is missing. An advisory lock makes processes that do it at once take turns.

    Raises:
        Unavailable: Postgres cannot be reached or refuses us; the message says why.
    """
    try:
        command.upgrade(_config(database_url, sys.stderr), "head")
    except (OSError, asyncpg.PostgresError, DBAPIError) as error:
        raise Unavailable(f"cannot migrate: {error}") from error


def require(database_url: str) -> None:
    """See that the database answers and is migrated, for a start that fails in one line if not.

    Raises:
        Unavailable: it does not; the message says why.
    """
    try:
        asyncio.run(_answer(database_url))
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise Unavailable(f"cannot reach the database: {error}") from error


async def _answer(database_url: str) -> None:
    connection, is_bound = await asyncpg.connect(_plain(database_url), timeout=10), False
    try:
        found = await connection.fetchval("select version_num from alembic_version")
        is_bound = await connection.fetchval(_IS_BOUND)
    except asyncpg.UndefinedTableError:
        found = None
    finally:
        await connection.close()
    scripts = ScriptDirectory.from_config(_config(database_url, StringIO()))
    older = {script.revision for script in scripts.walk_revisions()} - set(scripts.get_heads())
    # One that we do not know is from a later release, which has to run beside this one (law L12).
    if found is None or found in older:
        raise Unavailable("the database is not at this release's schema: run `holdfast migrate`")
    if is_bound:
        raise Unavailable("row-level security binds the database's user: serve as the owner of the tables")


def script(database_url: str) -> str:
    """The SQL of every migration from an empty database on, for those who apply it by hand."""
    out = StringIO()
    command.upgrade(_config(database_url, out), "head", sql=True)
    return out.getvalue()


def check(database_url: str) -> None:
    """Raise `alembic.util.CommandError` if the tables in code and in the database differ (law L12)."""
    command.check(_config(database_url, StringIO()))


def _plain(database_url: str) -> str:
    return database_url.replace("postgresql+asyncpg://", "postgresql://", 1)


def _config(database_url: str, output: object) -> Config:
    plain = _plain(database_url)
    config = Config(output_buffer=output)  # type: ignore[arg-type]
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.set_main_option(
        "sqlalchemy.url", plain.replace("postgresql://", "postgresql+asyncpg://", 1).replace("%", "%%")
    )
    return config
