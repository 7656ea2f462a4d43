"""What a command works on: the database and keys of the settings, or those of a running `holdfast serve`."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from app.embedded import seal_key
from app.embedded.postgres import EmbeddedPostgres
from app.errors import Unavailable
from app.settings import Settings
from app.store import migrate
from app.store.db import Database, SystemTx

_T = TypeVar("_T")


def settings_with_key(config: Path | None, state_dir: Path | None) -> Settings:
    """The settings, with the seal key that `holdfast serve` keeps for a Postgres of its own."""
    settings = Settings.load(config, state_dir=state_dir)
    is_kept = (settings.state_dir / seal_key.FILE).exists()
    if settings.database_url or settings.seal_key or not is_kept:
        return settings
    return Settings.load(config, state_dir=state_dir, seal_key=seal_key.own_key(settings.state_dir))


def find(config: Path | None, state_dir: Path | None) -> str:
    """The URL of a database that answers and is migrated; see `of_settings`."""
    return of_settings(Settings.load(config, state_dir=state_dir))


def of_settings(settings: Settings) -> str:
    """The URL of the database of these settings.

    Raises:
        Unavailable: it does not answer, or is not migrated.
    """
    if settings.database_url:
        url = settings.database_url.get_secret_value()
        migrate.require(url)
        return url
    url = EmbeddedPostgres(settings.state_dir).url
    try:
        migrate.require(url)
    except Unavailable as error:
        raise Unavailable(
            f"database_url is not set, and no `holdfast serve` answers on {settings.state_dir}: {error}"
        ) from error
    return url


def run(database_url: str, work: Callable[[Database], Awaitable[_T]]) -> _T:
    """Do something with a connection of its own."""

    async def opened() -> _T:
        db = await Database.connect(database_url, size=1)
        try:
            return await work(db)
        finally:
            await db.close()

    return asyncio.run(opened())


def transact(database_url: str, work: Callable[[SystemTx], Awaitable[_T]]) -> _T:
    """Do something in one transaction, which may act for every tenant."""

    async def begun(db: Database) -> _T:
        async with db.begin_system() as tx:
            return await work(tx)

    return run(database_url, begun)
