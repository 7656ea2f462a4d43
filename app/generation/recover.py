"""The reaper: what an expired lease left behind is returned or ended, and what is old is forgotten.

Safe to run in several places at once: rows are locked, and those that another reaper holds are skipped.
"""

import orjson
import structlog

from app import ids
from app.domain.jobs import SHOWN_BEFORE_OUTPUT, Claim, Ending, Rerun, Verdict, decide
from app.domain.response import Draft, Status
from app.domain.turn import Place
from app.errors import Unavailable
from app.generation.accept import Accepted
from app.generation.composer import Composer
from app.generation.keeping import turn_of
from app.generation.news import tell_followers
from app.generation.queueing import draft_of
from app.generation.salvage import salvage
from app.store import attempts, events, idempotency, lifecycle, upkeep
from app.store.codec import decompress
from app.store.db import Database, Row, SystemTx, Tx

log: structlog.stdlib.BoundLogger = structlog.get_logger()

BATCH = 100
MAX_BELLS = 1000

UNREADABLE_SECONDS = 3600.0
"""When a row that cannot be treated is looked at again: somebody may have mended it."""

VANISHED = "The worker that was generating this response was lost."


async def reap(
    db: Database,
    *,
    max_attempts: int,
    rerun: Rerun,
    event_retention_seconds: float,
    idempotency_retention_seconds: float,
    ephemeral_result_seconds: float,
    queued_too_long_seconds: float,
) -> int:
    """Do one round; how many queued responses want a bell rung for them."""
    while await _reap_batch(db, max_attempts, rerun, ephemeral_result_seconds) == BATCH:
        pass
    # Each in a transaction of its own: what one of them meets must not undo the others.
    async with db.begin_system() as tx:
        await events.prune(tx, retention_seconds=event_retention_seconds)
    async with db.begin_system() as tx:
        await idempotency.prune(tx, retention_seconds=idempotency_retention_seconds)
    async with db.begin_system() as tx:
        await upkeep.forget_ephemeral(tx)
    async with db.begin_system() as tx:
        return await upkeep.count_waiting(tx, older_than_seconds=queued_too_long_seconds, limit=MAX_BELLS)


async def count_queued(db: Database) -> int:
    """How many responses are queued, however short a time; no more than bells are rung at once."""
    async with db.begin_system() as tx:
        return await upkeep.count_waiting(tx, older_than_seconds=0, limit=MAX_BELLS)


async def fail(tx: SystemTx, row: Row, message: str, *, ttl_seconds: float) -> None:
    """End a locked response as failed, with the output that was shown, and note it on its attempt."""
    mine, claim = tx.of(row["tenant_id"]), Claim(row["tenant_id"], row["id"], row["attempt"])
    error = {"code": "server_error", "message": message}
    shown = await events.count(mine, row["id"])
    told = await _salvaged(mine, row, shown) if shown > SHOWN_BEFORE_OUTPUT else None
    if told:
        await _fail_midway(mine, claim, *told, error=error, ttl_seconds=ttl_seconds)
    else:
        await lifecycle.end(mine, row, Status.FAILED, event_count=shown, ttl_seconds=ttl_seconds, error=error)
        await attempts.end(mine, claim, "failed")


async def _salvaged(tx: Tx, row: Row, shown: int) -> tuple[Draft, Composer] | None:
    """The lost run's composer, where its journal can be read to the end."""
    request, items = (decompress(row[name], row["codec"]) for name in ("request", "items"))
    draft = draft_of(row["id"], request, items)
    try:
        frames = await events.read_all(tx, row["id"])
    except ValueError:
        frames = b""
    try:
        composer = salvage(draft, frames)
    except Exception:
        # Whatever a journal holds, it must not keep the reaper from the rows that follow.
        log.exception("journal.unreadable", response_id=ids.response_id(row["id"]))
        return None
    if composer.event_count == shown:
        return draft, composer
    log.error("journal.unreadable", response_id=ids.response_id(row["id"]), shown=shown)
    return None


async def _fail_midway(
    tx: Tx, claim: Claim, draft: Draft, composer: Composer, *, error: dict[str, str], ttl_seconds: float
) -> None:
    """Close what the lost run left open, say so to its followers, and keep its output (laws L1 and L2)."""
    if closing := composer.close(Status.FAILED, error=error):
        frames = b"".join(event.frame for event in closing)
        await events.put(tx, draft.id, closing[-1].sequence_number, frames)
    ending = Ending(
        claim,
        turn_of(Accepted(draft, None), composer, "", Place(draft.id, 0)),
        event_count=composer.event_count,
        shape=orjson.dumps(composer.shape),
        ttl_seconds=ttl_seconds,
    )
    await lifecycle.finish(tx, ending)


async def _reap_batch(db: Database, max_attempts: int, rerun: Rerun, ttl_seconds: float) -> int:
    async with db.begin_system() as tx:
        rows = await lifecycle.lock_expired(tx, limit=BATCH)
        ended = [row for row in rows if await _reap_one(tx, row, max_attempts, rerun, ttl_seconds)]
    await tell_followers(db, [row["id"] for row in ended])
    return len(rows)


async def _reap_one(tx: SystemTx, row: Row, max_attempts: int, rerun: Rerun, ttl_seconds: float) -> bool:
    """Treat one expired lease; True if the response has ended.

    Whatever is wrong with a row must not keep the others waiting: it is put off, and the log says why.
    """
    try:
        async with tx.savepoint():
            return await _reap(tx, row, max_attempts, rerun, ttl_seconds)
    except Unavailable:
        raise
    except Exception:
        log.exception("response.unreadable", response_id=ids.response_id(row["id"]))
    claim = Claim(row["tenant_id"], row["id"], row["attempt"])
    await lifecycle.put_off(tx.of(row["tenant_id"]), claim, seconds=UNREADABLE_SECONDS)
    return False


async def _reap(tx: SystemTx, row: Row, max_attempts: int, rerun: Rerun, ttl_seconds: float) -> bool:
    mine, claim = tx.of(row["tenant_id"]), Claim(row["tenant_id"], row["id"], row["attempt"])
    shown = await events.count(mine, row["id"])
    verdict = decide(lifecycle.expired(row, event_count=shown), max_attempts=max_attempts, rerun=rerun)
    log.warning("lease.expired", response_id=ids.response_id(row["id"]), verdict=verdict.value)
    if verdict is Verdict.REQUEUE:
        await lifecycle.requeue(mine, claim, event_count=shown)
        await attempts.end(mine, claim, "lost")
    elif verdict is Verdict.FAIL:
        await fail(tx, row, VANISHED, ttl_seconds=ttl_seconds)
        return True
    return False
