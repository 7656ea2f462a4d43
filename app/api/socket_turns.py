"""One `response.create` of a WebSocket, from its frame to its last event. `app.api.create` runs it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from starlette.datastructures import Headers

from app.api import dialects, idempotency
from app.api.arrival import AnswerHeaders, Arrival
from app.api.bodies import ClientGone
from app.api.create import Begun, Repeated, Running, begin, outcome
from app.api.socket_frames import ClientFrame, Wish, error_frame, event_frame, wish
from app.api.socket_peer import Peer
from app.api.validation import check_create
from app.domain.events import Event
from app.domain.response import CHAINABLE
from app.domain.tenancy import Caller
from app.errors import RequestError, ServiceError
from app.generation import engine
from app.generation.composer import Composer
from app.generation.feed import Feed
from app.generation.memory import Memory, remember
from app.resources import Resources

log: structlog.stdlib.BoundLogger = structlog.get_logger()

MAX_WAITING_BYTES = 64 * 1024
"""How far one lane may lag behind its model: sixteen of them share a connection, and there are many."""

_TERMINAL = frozenset({"response.completed", "response.incomplete", "response.failed"})


class Turn:
    """The turn of a lane. `run` is called once, when everything before it in the lane has ended."""

    def __init__(
        self,
        frame: ClientFrame,
        headers: Headers,
        peer: Peer,
        memory: Memory,
        identify: Callable[[], Awaitable[Caller]],
        it: Resources,
    ) -> None:
        """`identify` says who is asking, at the time when it is asked."""
        self.lane = frame.lane
        self.size_bytes = len(frame.text)
        self._frame = frame
        self._headers = headers
        self._peer = peer
        self._memory = memory
        self._identify = identify
        self._it = it
        self._parent = frame.parent
        self._feed: Feed | None = None
        self._task: asyncio.Task[Composer] | None = None
        self._is_beginning = False
        self._broken_at: int | None = None

    async def run(self) -> None:
        """Answer, whatever happens: an error goes to the lane and leaves the others alone."""
        if self.lane is not None:
            structlog.contextvars.bind_contextvars(stream_id=self.lane)
        try:
            await self._answer()
        except ClientGone:
            self._fail()
        except ServiceError as error:
            say = log.info if isinstance(error, RequestError) else log.warning
            say("request.refused", code=error.code, status=error.status)
            await self.refuse(error)
        except Exception:
            # A bug of ours, as `Correlation` has it for HTTP.
            log.exception("request.crashed")
            await self.refuse(ServiceError())

    async def refuse(self, error: ServiceError) -> None:
        """End the turn with an error."""
        self._fail()
        await self._peer.say(error_frame(error, self.lane, sequence_number=self._broken_at))

    def stop(self) -> None:
        """End what runs, as when a client hangs up: it is stored as cancelled, and its lane is told."""
        if self._task and self._it.settings.foreground_on_disconnect == "cancel":
            self._task.cancel()

    def leave(self) -> bool:
        """Stop, and listen no more; whether there is nothing left to wait for.

        What is being begun gives back what it holds by itself, once it sees that the client is gone.
        """
        self.stop()
        if self._feed:
            self._feed.abandon()
        return not self._is_beginning

    async def _answer(self) -> None:
        caller = await self._identify()
        wanted = wish(self._frame)
        settings = self._it.settings
        params = check_create(
            wanted.params, self._frame.text, default_model=settings.default_model, limits=settings
        )
        match await self._begin(params, wanted, caller):
            case Running(run, coroutine):
                self._task = self._it.spawn(coroutine)
                await self._follow(run, self._task)
            case Repeated(_, kept):
                for event in await idempotency.retold(kept, caller, self._it):
                    await self._tell(event)
                self._memory.keep(self.lane, None)
            case queued:
                # There is no `background` in what `wish` leaves.
                raise TypeError(queued)

    async def _begin(self, params: dict[str, Any], wanted: Wish, caller: Caller) -> Begun:
        self._is_beginning = True
        try:
            return await begin(params, self._arrival(wanted), caller, self._it, generates=wanted.generates)
        finally:
            self._is_beginning = False

    async def _follow(self, run: engine.Run, task: asyncio.Task[Composer]) -> None:
        self._feed = feed = _feed_of(run)
        if self._peer.is_gone:
            self.leave()
            return
        while events := await feed.take():
            for event in events:
                if event.type in _TERMINAL:
                    # Before it is said: whoever has heard it may continue it, in any lane.
                    self._settle(run)
                await self._tell(event)
        await outcome(task)

    async def _tell(self, event: Event) -> None:
        if event.type == "error":
            # The run ends with the same error, and here errors have a shape of their own.
            self._broken_at = event.sequence_number
            return
        event = dialects.event(event, self._peer.dialect, self._it)
        await self._peer.say(event_frame(event, self.lane))

    def _settle(self, run: engine.Run) -> None:
        if run.composer.status in CHAINABLE:
            latest = remember(run.accepted, run.composer, run.provider.name)
            self._memory.keep(self.lane, latest)
        else:
            self._fail()

    def _fail(self) -> None:
        """A continuation that failed costs its parent the place in the memory (behaviour 137)."""
        self._memory.evict(self.lane, self._parent)

    def _arrival(self, wanted: Wish) -> Arrival:
        async def is_abandoned() -> bool:
            return self._peer.is_gone

        return Arrival(
            headers=self._headers,
            idempotency_key=lambda: wanted.idempotency_key,
            is_abandoned=is_abandoned,
            tell=_untold,
            recall=self._memory.recall,
            max_waiting_bytes=MAX_WAITING_BYTES,
        )


def _untold(_: AnswerHeaders) -> None:
    """A frame has no headers. What a limit says when it refuses is in its message."""


def _feed_of(run: engine.Run) -> Feed:
    if not isinstance(run.listener, Feed):
        raise TypeError("a turn is always streamed")
    return run.listener
