"""Generate one accepted response to its end. No HTTP, no Celery, no `yield`.

The engine pushes events into a feed; whoever listens may go away without deciding what happens to
the generation. A transaction is open only after the upstream has ended (law L4), and nothing
terminal is said before it has committed (law L8).
"""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

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
    except Exception as error:
        # Nothing is stored, so no outcome may be told: only that the stream breaks off here (law L8).
        if it.feed and (composer.is_started or it.feed.is_streaming):
            it.feed.put([composer.broken(error if isinstance(error, ServiceError) else ServiceError())])
        raise
    finally:
        if it.feed:
            it.feed.close()
    return composer


async def _generate(it: Run, composer: Composer) -> Outcome:
    """Listen to the upstream to its end, whatever that is. What fails before it began is raised."""
    try:
        async with asyncio.timeout(it.max_run_seconds):
            await _listen(it, composer)
    except TimeoutError:
        error = UpstreamError("The response took longer than this server allows.", status=504)
    except ServiceError as refusal:
        error = refusal
    except asyncio.CancelledError as order:
        if SHUTDOWN not in order.args:
            if composer.is_started:
                await _finish(it, composer, Status.CANCELLED, None)
            raise
        error = Unavailable("The server is shutting down.")
    except Exception:
        # A bug of ours must not leave a stream without an end (design: errors, second place of two).
        log.exception("generation.crashed")
        error = ServiceError()
    else:
        error = UpstreamError("The model provider ended without an answer.")
    if composer.is_ended:
        return None, None
    if not composer.is_started:
        raise error
    return _failed(error)


async def _listen(it: Run, composer: Composer) -> None:
    async with aclosing(it.provider.stream(it.context)) as deltas:
        async for delta in deltas:
            if (events := composer.feed(delta)) and it.feed:
                await it.feed.publish(events)


async def _finish(
    it: Run, composer: Composer, status: Status | None, error: Mapping[str, str] | None
) -> None:
    """Close, store, tell. No reader is waited for, and a cancellation waits until the end is told."""
    _tell(it, composer.close(status, error=error))
    order = await _uninterrupted(_store(it, composer)) if it.accepted.draft.is_stored else None
    _tell(it, [composer.terminal()])
    if order and SHUTDOWN not in order.args:
        raise order


async def _uninterrupted(write: Coroutine[Any, Any, None]) -> asyncio.CancelledError | None:
    """Wait for a write to its end, and only then say whether this task was cancelled meanwhile."""
    task, order = asyncio.ensure_future(write), None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as latest:
            order = latest
    task.result()
    return order


async def _store(it: Run, composer: Composer) -> None:
    """Commit the turn. Postgres may be away for some seconds: repeating an append is harmless."""
    turn = _turn(it, composer)
    for pause_seconds in COMMIT_PAUSES_SECONDS:
        try:
            await _append(it, turn)
        except Unavailable:
            log.warning("store.unavailable", response_id=ids.response_id(turn.id))
            await asyncio.sleep(pause_seconds)
        else:
            return
    await _append(it, turn)


async def _append(it: Run, turn: Turn) -> None:
    async with it.db.begin(it.caller) as tx:
        await responses.append(tx, turn)


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


def _failed(error: ServiceError) -> Outcome:
    """The outcome of what went wrong after the beginning: the response's own error has fewer keys."""
    report = error.report if isinstance(error, UpstreamError) else None
    log.warning("generation.failed", reason=error.message, report=report)
    code = error.code if isinstance(error, UpstreamError) and error.code else "server_error"
    return Status.FAILED, {"code": code, "message": error.message}


def _tell(it: Run, events: Sequence[Event]) -> None:
    if it.feed:
        it.feed.put(events)
