"""Generate one accepted response to its end. No HTTP, no Celery, no `yield`.

The engine pushes events into a feed; whoever listens may go away without deciding what happens to
the generation. A transaction is open only after the upstream has ended (law L4), and nothing
terminal is said before it has committed (law L8).
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

import structlog

from app import ids
from app.domain.context import Context
from app.domain.events import Event
from app.domain.response import Status
from app.errors import RequestError, ServiceError, Unavailable, UpstreamError
from app.generation.accept import Accepted
from app.generation.composer import Composer
from app.generation.keeping import Keeper
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
    except ServiceError as error:
        # Nothing is stored, so no outcome may be told: only that the stream breaks off here (law L8).
        # A background response has been promised; whoever reads on is told when it is decided.
        if it.listener and not it.keeper.is_promised and _is_heard(it):
            await _publish(it, [it.composer.broken(error)])
        raise
    finally:
        if it.listener:
            it.listener.close()
    return it.composer


async def _generate(it: Run) -> Outcome:
    """Listen to the upstream to its end, whatever that is."""
    try:
        async with asyncio.timeout(it.max_run_seconds):
            await _listen(it)
    except TimeoutError:
        return _failed("server_error", "The response took longer than this server allows.")
    except (UpstreamError, RequestError) as error:
        if not _exists(it):
            raise
        log.warning("generation.failed", report=getattr(error, "report", None), code=error.code)
        return _failed(error.code or "server_error", error.message)
    except asyncio.CancelledError as order:
        return await _stopped(it, order)
    except Exception:
        # A bug of ours must not leave a stream without an end (design: errors, second place of two).
        log.exception("generation.crashed")
        if not _exists(it):
            raise
        return _failed("server_error", ServiceError().message)
    return None, None


async def _stopped(it: Run, order: asyncio.CancelledError) -> Outcome:
    """Somebody cancelled the run: the client is gone, the server stops, or the claim is lost."""
    if SHUTDOWN in order.args and _exists(it) and not it.keeper.may_hand_back(it.composer):
        return _failed("server_error", "The server is shutting down.")
    if not it.keeper.is_promised and it.composer.is_started:
        await _finish(it, Status.CANCELLED, None)
    raise order


def _exists(it: Run) -> bool:
    """Whether there is a response to end: somebody has been told of it."""
    return it.composer.is_started or it.keeper.is_promised


def _is_heard(it: Run) -> bool:
    return it.composer.is_started or (it.listener is not None and it.listener.is_streaming)


async def _listen(it: Run) -> None:
    async with aclosing(it.provider.stream(it.context)) as deltas:
        async for delta in deltas:
            await _publish(it, it.composer.feed(delta))


async def _finish(it: Run, status: Status | None, error: Mapping[str, str] | None) -> None:
    """Close, store, tell. The write goes on to its end even if this task is cancelled meanwhile."""
    await _publish(it, it.composer.close(status, error=error))
    write = asyncio.ensure_future(_keep(it))
    try:
        await asyncio.shield(write)
    except asyncio.CancelledError:
        await write
        raise
    # The terminal event of a background stream is not journalled: followers read it off the row.
    if not it.keeper.is_promised:
        await _publish(it, [it.composer.terminal()])


async def _keep(it: Run) -> None:
    """Commit the outcome. Postgres may be away for some seconds: keeping it twice is harmless."""
    for pause_seconds in (*COMMIT_PAUSES_SECONDS, None):
        try:
            await it.keeper.keep(it.composer)
        except Unavailable:
            if pause_seconds is None:
                raise
            log.warning("store.unavailable", response_id=ids.response_id(it.accepted.draft.id))
            await asyncio.sleep(pause_seconds)
        else:
            return


def _failed(code: str, message: str) -> Outcome:
    return Status.FAILED, {"code": code, "message": message}


async def _publish(it: Run, events: Sequence[Event]) -> None:
    if it.listener:
        await it.listener.publish(events)
