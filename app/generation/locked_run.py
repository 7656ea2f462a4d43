"""A foreground run in a conversation: under its lock, which ends with the run whatever happens."""

import asyncio
from typing import cast

from app.domain.conversation import Lock
from app.generation import engine, history
from app.generation.composer import Composer
from app.generation.keeping import NewRow
from app.generation.leases import Leases
from app.store.db import Database


async def run_locked(
    run: engine.Run, lock: Lock, keeper: NewRow, locks: Leases[Lock], db: Database
) -> Composer:
    """Generate as `engine.run` does, renewing the lock meanwhile.

    Raises:
        ServiceError: beside those of `engine.run`, the lock was lost, so that others may have appended.
    """
    # Whoever runs is in a task: only there is a lost lease of any use.
    with locks.kept(lock, cast("asyncio.Task[object]", asyncio.current_task())):
        try:
            return await engine.run(run)
        finally:
            if not keeper.has_released:
                await engine.uninterrupted(history.release(db, lock))
