"""Generate one accepted response to its end. No HTTP, no Celery, no `yield`.

The engine pushes events into a feed; whoever listens may go away without deciding what happens to
the generation. A transaction is open only after the upstream has ended (law L4), and nothing
terminal is said before it has committed (law L8).
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import structlog

from app import ids
from app.domain import calls
from app.domain.context import Context
from app.domain.events import Event
from app.domain.response import CHAINABLE, Status
from app.domain.tenancy import Caller
from app.domain.turn import Continuation, Place, Turn
from app.errors import ServiceError, Unavailable, UpstreamError
from app.generation.accept import Accepted
from app.generation.composer import Composer
from app.generation.feed import Feed
from app.providers.base import Provider
from app.store import responses
from app.store.db import Database

log: structlog.stdlib.BoundLogger = structlog.get_logger()

SHUTDOWN = "shutdown"
"""The message of a cancellation by which a stopping server ends a run as failed, not as cancelled."""

COMMIT_PAUSES_SECONDS = (0.1, 0.4, 1.5, 4.0)
"""How long a finished response waits between offers to a Postgres that is away: a restart's length."""

Outcome = tuple[Status | None, Mapping[str, str] | None]
"""What ended a run, where the provider did not say it itself: a status and an error."""


@dataclass(frozen=True, slots=True)
class Run:
    """All that one generation needs."""

    db: Database
    caller: Caller
    provider: Provider
    accepted: Accepted
    context: Context
    feed: Feed | None
    """Where events go; None where only the result is wanted."""
    pads: bool
    max_run_seconds: float


async def run(it: Run) -> Composer:
    """Generate, store, and only then say the end.

    Returns:
        The finished response, stored unless `store` was false.

    Raises:
        ServiceError: the upstream refused before it began, and nothing is stored; or the store is away.
        asyncio.CancelledError: nobody wants the answer any more; what had begun is stored as cancelled.
    """
    composer = Composer(it.accepted.draft, is_heard=it.feed is not None, pads=it.pads)
    try:
        await _finish(it, composer, *await _generate(it, composer))
    except ServiceError as error:
        # Nothing is stored, so no outcome may be told: only that the stream breaks off here (law L8).
        if it.feed and (composer.is_started or it.feed.is_streaming):
            await _publish(it, [composer.broken(error)])
        raise
    finally:
        if it.feed:
            it.feed.close()
    return composer


async def _generate(it: Run, composer: Composer) -> Outcome:
    """Listen to the upstream to its end, whatever that is."""
    try:
        async with asyncio.timeout(it.max_run_seconds):
            await _listen(it, composer)
    except TimeoutError:
        return _failed("server_error", "The response took longer than this server allows.")
    except UpstreamError as error:
        if not composer.is_started:
            raise
        log.warning("generation.failed", report=error.report)
        return _failed(error.code or "server_error", error.message)
    except asyncio.CancelledError as order:
        if not composer.is_started:
            raise
        if SHUTDOWN not in order.args:
            await _finish(it, composer, Status.CANCELLED, None)
            raise
        return _failed("server_error", "The server is shutting down.")
    except Exception:
        # A bug of ours must not leave a stream without an end (design: errors, second place of two).
        log.exception("generation.crashed")
        if not composer.is_started:
            raise
        return _failed("server_error", ServiceError().message)
    return None, None


async def _listen(it: Run, composer: Composer) -> None:
    async with aclosing(it.provider.stream(it.context)) as deltas:
        async for delta in deltas:
            await _publish(it, composer.feed(delta))


async def _finish(
    it: Run, composer: Composer, status: Status | None, error: Mapping[str, str] | None
) -> None:
    """Close, store, tell. The write goes on to its end even if this task is cancelled meanwhile."""
    await _publish(it, composer.close(status, error=error))
    if it.accepted.draft.is_stored:
        write = asyncio.ensure_future(_store(it, composer))
        try:
            await asyncio.shield(write)
        except asyncio.CancelledError:
            await write
            raise
    await _publish(it, [composer.terminal()])


async def _store(it: Run, composer: Composer) -> None:
    """Commit the turn. Postgres may be away for some seconds: repeating an append is harmless."""
    turn = _turn(it, composer)
    for pause_seconds in (*COMMIT_PAUSES_SECONDS, None):
        try:
            async with it.db.begin(it.caller) as tx:
                await responses.append(tx, turn)
        except Unavailable:
            if pause_seconds is None:
                raise
            log.warning("store.unavailable", response_id=ids.response_id(turn.id))
            await asyncio.sleep(pause_seconds)
        else:
            return


def _turn(it: Run, composer: Composer) -> Turn:
    draft, status = it.accepted.draft, composer.status
    ancestry = it.accepted.ancestry
    place = ancestry.place.next() if ancestry else Place(draft.id, 0)
    if ancestry and status not in CHAINABLE:
        # Nobody will chain on it, so it leaves the line free for the next try.
        place = place.elsewhere(draft.id)
    return Turn(
        id=draft.id,
        parent=ancestry.parent if ancestry else None,
        place=place,
        status=status,
        model=composer.model,
        input_blob=draft.input.blob,
        input_count=len(draft.input.items),
        input_gated=draft.input.gated,
        output_blob=composer.output_blob,
        output_count=len(composer.output),
        output_gated=composer.gated,
        body=composer.body,
        continuation=_continuation(it, composer),
    )


def _continuation(it: Run, composer: Composer) -> Continuation | None:
    open_calls, upstream_ids = calls.open_after(composer.output), composer.upstream_ids
    if not open_calls and not upstream_ids:
        return None
    return Continuation(open_calls, it.provider.name, upstream_ids)


def _failed(code: str, message: str) -> Outcome:
    return Status.FAILED, {"code": code, "message": message}


async def _publish(it: Run, events: Sequence[Event]) -> None:
    if it.feed:
        await it.feed.publish(events)
