"""A foreground run with an `Idempotency-Key`: under its claim, which ends with the run whatever happens."""

import asyncio
from collections.abc import Coroutine
from typing import Any, cast

from app.domain.idempotency import KeyClaim
from app.generation import engine, idempotency
from app.generation.composer import Composer
from app.generation.leases import Leases
from app.store.db import Database


async def run_claimed(
    run: Coroutine[Any, Any, Composer], claim: KeyClaim, claims: Leases[KeyClaim], db: Database
) -> Composer:
    """Generate as `run` does, renewing the claim meanwhile; whatever is not stored gives the key back.

    Raises:
        ServiceError: beside those of `run`, the claim was lost, so that a retry may have generated.
    """
    # Whoever runs is in a task: only there is a lost lease of any use.
    with claims.kept(claim, cast("asyncio.Task[object]", asyncio.current_task())):
        try:
            return await run
        except BaseException:
            await engine.uninterrupted(idempotency.release(db, claim))
            raise
