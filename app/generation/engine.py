"""Generate one accepted response to its end. No HTTP, no Celery, no `yield`.

The engine pushes events into a feed; whoever listens may go away without deciding what happens to
the generation. A transaction is open only after the upstream has ended (law L4), and nothing
terminal is said before it has committed (law L8).
"""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import chain, cycle
from typing import Any, Protocol

import structlog

from app import ids
from app.domain.context import Context
from app.domain.events import Event
from app.domain.response import Status
from app.errors import InvalidRequest, ServiceError, Unavailable, UpstreamError
from app.generation.accept import Accepted
from app.generation.composer import Composer
from app.generation.history import lost
from app.generation.idempotency import taken_over
from app.generation.keeping import Keeper
from app.generation.leases import LEASE_LOST
from app.providers.base import Provider

log: structlog.stdlib.BoundLogger = structlog.get_logger()

SHUTDOWN = "shutdown"
"""The message of a cancellation by which a stopping server ends a run as failed, not as cancelled."""

COMMIT_PAUSES_SECONDS = (0.1, 0.4, 1.5, 4.0)
"""How long a finished response waits between offers to a Postgres that is away: a restart's length."""

Outcome = tuple[Status | None, Mapping[str, str] | None]
"""What ended a run, where the provider did not say it itself: a status and an error."""


class Listener(Protocol):
    """Where events go: a client's feed, or a journal."""

    @property
    def is_streaming(self) -> bool:
        """Whether a stream has begun, so that an error must travel in it."""
        ...

    async def publish(self, events: Sequence[Event]) -> None: ...
    def put(self, events: Sequence[Event]) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Run:
    """All that one generation needs."""

    provider: Provider
    accepted: Accepted
    context: Context
    composer: Composer
    keeper: Keeper
    listener: Listener | None
    """Where events go; None where only the result is wanted."""
    max_run_seconds: float


async def run(it: Run) -> Composer:
    """Generate, store, and only then say the end.

    Returns:
        The finished response, stored unless `store` was false.

    Raises:
        ServiceError: the upstream refused before it began, and nothing is stored; or the store is away.
        LeaseLost: the response is another attempt's, or cancelled.
        asyncio.CancelledError: nobody wants the answer any more; what a foreground run had begun is
            stored as cancelled.
    """
    try:
        await _finish(it, *await _generate(it))
    except Exception as error:
        # Nothing is stored, so no outcome may be told: only that the stream breaks off here (law L8).
        # Who follows a background response is told when it is decided.
        if not it.keeper.is_promised and _has_begun(it):
            # Who hears of it may try again at once, in the same conversation or with the same key.
            await uninterrupted(it.keeper.give_back())
            _tell(it, [it.composer.broken(error if isinstance(error, ServiceError) else ServiceError())])
        raise
    finally:
        if it.listener:
            it.listener.close()
    return it.composer


async def _generate(it: Run) -> Outcome:
    """Listen to the upstream to its end, whatever that is. What fails before it began is raised."""
    try:
        async with asyncio.timeout(it.max_run_seconds):
            await _listen(it)
    except TimeoutError:
        error = UpstreamError("The response took longer than this server allows.", status=504)
    except ServiceError as refusal:
        error = refusal
    except asyncio.CancelledError as order:
        error = await _stopped(it, order)
    except Exception:
        # A bug of ours must not leave a stream without an end (design: errors, second place of two).
        log.exception("generation.crashed")
        error = ServiceError()
    else:
        error = UpstreamError("The model provider ended without an answer.")
    try:
        if it.composer.is_ended:
            return None, None
        if not it.composer.is_started and not it.keeper.is_promised:
            raise error
        return _failed(error)
    finally:
        # An error and the frame that names it would hold each other, and with them the whole context, until
        # the collector comes: gigabytes, while an upstream fails.
        del error


async def _stopped(it: Run, order: asyncio.CancelledError) -> ServiceError:
    """Somebody cancelled the run: the client is gone, the claim or the lock is lost, or the server stops.

    Where a client still waits, the response ends here, unless another attempt may have it.
    """
    if SHUTDOWN in order.args and not it.keeper.may_hand_back(it.composer):
        return Unavailable("The server is shutting down.")
    if LEASE_LOST in order.args and not it.keeper.is_promised:
        return lost() if it.accepted.lock else taken_over()
    try:
        if not it.keeper.is_promised and it.composer.is_started:
            await _finish(it, Status.CANCELLED, None)
        raise order
    finally:
        del order  # As in `_generate`.


def _has_begun(it: Run) -> bool:
    """Whether the client has seen a stream begin, so that an error must travel in it."""
    return it.composer.is_started or (it.listener is not None and it.listener.is_streaming)


async def _listen(it: Run) -> None:
    async with aclosing(it.provider.stream(it.context)) as deltas:
        async for delta in deltas:
            events = it.composer.feed(delta)
            if events and it.listener:
                await it.listener.publish(events)
            del delta, events  # Else they would be kept until the next delta comes.


async def _finish(it: Run, status: Status | None, error: Mapping[str, str] | None) -> None:
    """Close, store, tell. No reader is waited for, and a cancellation waits until the end is told."""
    _tell(it, it.composer.close(status, error=error))
    order = await uninterrupted(_keep(it))
    # The terminal event of a background stream is not journalled: followers read it off the row.
    if not it.keeper.is_promised:
        _tell(it, [it.composer.terminal()])
    # Only a client who is gone wants no answer: what was kept is told, though its lock was lost since.
    try:
        if order and not {SHUTDOWN, LEASE_LOST} & set(order.args) and not it.keeper.is_promised:
            raise order
    finally:
        del order


async def uninterrupted(write: Coroutine[Any, Any, None]) -> asyncio.CancelledError | None:
    """Wait for a write to its end, and only then say whether this task was cancelled meanwhile."""
    task, order = asyncio.ensure_future(write), None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as latest:
            order = latest
    try:
        task.result()
        return order
    finally:
        del order  # As in `_generate`.


async def _keep(it: Run) -> None:
    """Commit the outcome. Postgres may be away for some seconds: keeping it twice is harmless.

    What was promised is offered until Postgres is back; then it is kept, or another has taken it over.
    """
    last = COMMIT_PAUSES_SECONDS[-1:]
    for pause_seconds in chain(COMMIT_PAUSES_SECONDS, cycle(last if it.keeper.is_promised else ())):
        try:
            await it.keeper.keep(it.composer)
        except Unavailable:
            log.warning("store.unavailable", response_id=ids.response_id(it.accepted.draft.id))
            await asyncio.sleep(pause_seconds)
        else:
            return
    await it.keeper.keep(it.composer)


def _failed(error: ServiceError) -> Outcome:
    """The outcome of what went wrong after the beginning: the response's own error has fewer keys, and of
    the documented codes (surface notes §4.3) one says that trying again will not help.
    """
    report = error.report if isinstance(error, UpstreamError) else None
    log.warning("generation.failed", reason=error.message, report=report)
    code = "invalid_prompt" if isinstance(error, InvalidRequest) else "server_error"
    if isinstance(error, UpstreamError) and error.code:
        code = error.code
    return Status.FAILED, {"code": code, "message": error.message}


def _tell(it: Run, events: Sequence[Event]) -> None:
    if it.listener:
        it.listener.put(events)
