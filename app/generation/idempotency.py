"""One response for each `Idempotency-Key`: the first request claims it, the others wait for its end.

The claim is a lease on the key's row. It ends in the transaction that stores or queues the response, so
whoever finds it ended finds the response too, and whoever lost it stores nothing (docs/decisions/0020).
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast
from uuid import UUID

import structlog

from app import ids
from app.domain.idempotency import IdempotencyKey, Kept, KeyClaim
from app.domain.tenancy import Caller
from app.errors import InvalidRequest, ServiceError, Unavailable
from app.generation.leases import LEASE_LOST, Leases
from app.store import idempotency
from app.store.db import Database

log: structlog.stdlib.BoundLogger = structlog.get_logger()

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 0.5
"""Between looks at a key whose response is being made: at once where it is short, seldom where it is long."""

RETRY_AFTER_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Rules:
    """How a key is treated. Durations in seconds."""

    lease_seconds: float
    """How long a claim outlives the process that has it."""
    retention_seconds: float
    wait_seconds: float
    """How long a duplicate waits for the first request: at least as long as any may run."""
    is_abandoned: Callable[[], Awaitable[bool]]
    """Whether nobody waits for the answer any more."""


async def claim(
    db: Database, caller: Caller, key: IdempotencyKey, response_id: UUID, rules: Rules
) -> KeyClaim | Kept:
    """Claim a key for a response, or wait for the end of the one that has it.

    Raises:
        InvalidRequest: the key was sent with another request before.
        Unavailable: the first request runs for longer than this one may wait, or this client is gone.
    """
    last_look, pause = time.monotonic() + rules.wait_seconds, FIRST_PAUSE_SECONDS
    kept = await _try(db, caller, key, response_id, rules)
    while kept is not None:
        check_same(kept, key)
        if not kept.is_running:
            return kept
        if time.monotonic() >= last_look or await rules.is_abandoned():
            raise still_running()
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, LONGEST_PAUSE_SECONDS)
        async with db.read(caller) as tx:
            kept = await idempotency.find(tx, key.text)
        # Only what may be free is asked for by writing.
        kept = kept or await _try(db, caller, key, response_id, rules)
    return KeyClaim(caller.tenant_id, key.text, response_id)


async def _try(
    db: Database, caller: Caller, key: IdempotencyKey, response_id: UUID, rules: Rules
) -> Kept | None:
    async with db.autocommit(caller) as tx:
        return await idempotency.claim(
            tx,
            key,
            response_id,
            lease_seconds=rules.lease_seconds,
            retention_seconds=rules.retention_seconds,
        )


@asynccontextmanager
async def held(claim: KeyClaim, claims: Leases[KeyClaim], db: Database) -> AsyncGenerator[None]:
    """Keep a claim while its response is prepared, and give it up if that fails.

    Raises:
        ServiceError: the claim was lost, because this process stood still.
    """
    # Whoever prepares a response is in a task: only there is a lost lease of any use.
    task = cast("asyncio.Task[object]", asyncio.current_task())
    try:
        with claims.kept(claim, task):
            yield
    except asyncio.CancelledError as order:
        if LEASE_LOST in order.args:
            task.uncancel()
            raise taken_over() from None
        await asyncio.shield(release(db, claim))
        raise
    except BaseException:
        await release(db, claim)
        raise


async def release(db: Database, claim: KeyClaim) -> None:
    """Give a key back for which nothing was stored; where Postgres is away, its lease does."""
    try:
        async with db.begin(Caller(claim.tenant_id)) as tx:
            await idempotency.release(tx, claim)
    except Unavailable:
        log.warning("store.unavailable", response_id=ids.response_id(claim.response_id))


def check_same(kept: Kept, key: IdempotencyKey) -> None:
    """Refuse a key that stands for another request.

    Raises:
        InvalidRequest: it does.
    """
    if kept.fingerprint != key.fingerprint:
        raise InvalidRequest(
            "This Idempotency-Key was already used with another route or body. "
            "Use a new key for a new request.",
            code="idempotency_key_reused",
            param="Idempotency-Key",
        )


def still_running() -> Unavailable:
    return Unavailable(
        "The first request with this Idempotency-Key is still running. Please retry shortly.",
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )


def taken_over() -> ServiceError:
    """The run outlived its lease, as when its process stood still; a retry is given what took its place."""
    return ServiceError(
        "A retry with the same Idempotency-Key took the place of this request, which stood still for too "
        "long; nothing of it was stored.",
        code="idempotency_key_taken_over",
        param="Idempotency-Key",
    )
