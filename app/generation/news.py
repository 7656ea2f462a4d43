"""Tell other processes what has just been committed.

Who does not hear it finds it a poll or a renewal later, so a Postgres that is away is no error here.
"""

from collections.abc import Iterable
from uuid import UUID

import structlog

from app.errors import Unavailable
from app.store import events
from app.store.db import Database

log: structlog.stdlib.BoundLogger = structlog.get_logger()


async def tell_followers(db: Database, response_ids: Iterable[UUID]) -> None:
    """Wake all who follow these streams: they have ended."""
    await _tell(db, events.CHANNEL, response_ids)


async def tell_workers(db: Database, response_id: UUID) -> None:
    """Stop the run of a response that was cancelled."""
    await _tell(db, events.CANCELLED, [response_id])


async def _tell(db: Database, channel: str, response_ids: Iterable[UUID]) -> None:
    try:
        for response_id in response_ids:
            async with db.begin_system() as tx:
                await events.notify(tx, channel, response_id)
    except Unavailable:
        log.warning("news.unavailable", channel=channel)
