"""One WebSocket from its acceptance to its end: lanes, and the reasons for which it is closed."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Any

import structlog
from starlette.datastructures import Headers
from starlette.websockets import WebSocket

from app.api import dialects
from app.api.authentication import key_in
from app.api.keyring import Keyring
from app.api.scopes import check_scope
from app.api.socket_frames import STEER, ClientFrame, error_frame, read, steer_failed_frame
from app.api.socket_peer import Peer
from app.api.socket_turns import Turn
from app.domain.tenancy import Caller, Scope
from app.errors import InvalidRequest, RateLimited, ServiceError, Unauthenticated, Unavailable
from app.generation.memory import Memory
from app.resources import Resources

log: structlog.stdlib.BoundLogger = structlog.get_logger()

MAX_ACTIVE = 16
"""Responses that one connection generates at once; further ones wait (surface notes §10.4)."""
MAX_LANES = 32
"""Named lanes of one connection, over its whole life."""
MAX_WAITING = 64
"""Creates that wait in one lane. More are refused, because reading must go on: it is how we learn that a
client is gone, and the other lanes live by it. All that wait in a connection have the bytes of one body."""
LAST_WORDS_SECONDS = 2.0
"""How long turns that were told to end may take to say so."""


class _End(Enum):
    """Why a connection ends: the code and the reason of its closing."""

    GONE = (1000, "")
    STOPPING = (1012, "The server is restarting.")
    EXPIRED = (1001, "The connection reached its longest life.")
    LOCKED_OUT = (1008, "The API key is not valid any more.")


class Session:
    """The server's side of one connection."""

    def __init__(self, socket: WebSocket, it: Resources) -> None:
        """Nothing is sent before `serve`."""
        self._socket = socket
        self._it = it
        self._keyring: Keyring = socket.app.state.keyring
        self._tenant_id: int = socket.state.caller.tenant_id
        self._headers = Headers(scope=socket.scope)
        self._peer = Peer(socket, dialects.asked(socket))
        self._memory = Memory(it.settings.websocket_memory_bytes, it.socket_budget, tenant_id=self._tenant_id)
        self._turns = dict[asyncio.Task[None], Turn]()
        self._last_of = dict[str | None, asyncio.Task[None]]()
        self._lanes = set[str]()
        self._active = asyncio.Semaphore(MAX_ACTIVE)
        self._waiting = Counter[str | None]()
        self._waiting_bytes = 0
        self._locked_out = asyncio.Event()
        self._refusal: ServiceError | None = None
        """What the connection and every turn that has not begun are told, once it has come to its end."""

    async def serve(self) -> None:
        """Accept, and answer until either side has had enough. Nothing outlives it but what the settings
        let run on for a client that is gone.
        """
        await self._socket.accept()
        try:
            await self._serve()
        finally:
            self._memory.close()

    async def _serve(self) -> None:
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(self._read(group))
            signals = [
                group.create_task(self._it.stopping.wait()),
                group.create_task(self._locked_out.wait()),
                group.create_task(self._watch_key()),
            ]
            waited_for = {reader, *signals}
            longest = self._it.settings.websocket_max_seconds
            await asyncio.wait(waited_for, timeout=longest, return_when=asyncio.FIRST_COMPLETED)
            await self._end(self._why(reader), reader)
            for task in waited_for:
                task.cancel()

    def _why(self, reader: asyncio.Task[None]) -> _End:
        if reader.done():
            return _End.GONE
        if self._locked_out.is_set():
            return _End.LOCKED_OUT
        return _End.STOPPING if self._it.stopping.is_set() else _End.EXPIRED

    async def _end(self, why: _End, reader: asyncio.Task[None]) -> None:
        """Let turns end, or end them, and close; then leave alone whatever has not ended."""
        log.info("socket.ended", reason=why.name.lower(), turns=len(self._turns))
        if why is _End.STOPPING:
            await self._until_drained(reader)
            self._peer.is_gone = reader.done()
        elif why is _End.GONE:
            self._peer.is_gone = True
        else:
            reader.cancel()
            await self._say_why(why)
            for turn in self._turns.values():
                turn.stop()
            await self._wait(seconds=LAST_WORDS_SECONDS)
        await self._peer.close(*why.value)
        for task, turn in list(self._turns.items()):
            if turn.leave():
                task.cancel()

    async def _until_drained(self, reader: asyncio.Task[None]) -> None:
        """Until all turns have told their ends. `Resources.drain` ends what runs after the grace, in words;
        how long it takes to store that is known to it alone.
        """
        drained = asyncio.ensure_future(self._it.drained.wait())
        try:
            await self._wait(reader, drained)
        finally:
            drained.cancel()
        await self._wait(reader, seconds=LAST_WORDS_SECONDS)

    async def _wait(self, *signals: asyncio.Future[Any], seconds: float | None = None) -> None:
        """Until all turns have ended, one of these has, or the time is over."""
        loop = asyncio.get_running_loop()
        deadline = None if seconds is None else loop.time() + seconds
        while self._turns and not any(signal.done() for signal in signals):
            left = None if deadline is None else deadline - loop.time()
            if left is not None and left <= 0:
                return
            await asyncio.wait({*self._turns, *signals}, timeout=left, return_when=asyncio.FIRST_COMPLETED)

    async def _say_why(self, why: _End) -> None:
        """Say it to the connection now, and to what waits in its lanes when its turn has come."""
        if why is _End.EXPIRED:
            self._refusal = _expired()
        if self._refusal is None:
            return
        # A client that does not read is closed without it.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_SECONDS):
                await self._peer.say(error_frame(self._refusal))

    async def _read(self, group: asyncio.TaskGroup) -> None:
        """Take frames in for as long as there are any. What they ask for runs beside this."""
        while (heard := await self._peer.hear()) is not None:
            try:
                frame = read(heard if isinstance(heard, str) else None)
                if frame.kind == STEER:
                    await self._peer.say(steer_failed_frame(frame))
                else:
                    await self._take(frame, group)
            except ServiceError as error:
                log.info("request.refused", code=error.code, status=error.status)
                await self._peer.say(error_frame(error))

    async def _take(self, frame: ClientFrame, group: asyncio.TaskGroup) -> None:
        before = self._last_of.get(frame.lane)
        if before or len(self._turns) >= MAX_ACTIVE:
            frame = frame.set_aside
        turn = Turn(frame, self._headers, self._peer, self._memory, self._identify, self._it)
        try:
            self._admit(turn)
        except ServiceError as error:
            await turn.refuse(error)
            return
        self._waiting[turn.lane] += 1
        self._waiting_bytes += turn.size_bytes
        # A task of its own, because what counts streams and binds log lines is told by the task.
        task = group.create_task(self._in_lane(turn, before))
        self._turns[task], self._last_of[turn.lane] = turn, task
        task.add_done_callback(lambda _: self._ended(task, turn))

    def _admit(self, turn: Turn) -> None:
        """Refuse one lane too many, and one create too many behind others."""
        if turn.lane is not None and turn.lane not in self._lanes:
            if len(self._lanes) >= MAX_LANES:
                raise _too_many_lanes()
            self._lanes.add(turn.lane)
        size = self._waiting_bytes + turn.size_bytes
        is_full = self._waiting_bytes > 0 and size > self._it.settings.max_body_bytes
        if is_full or self._waiting[turn.lane] >= MAX_WAITING:
            raise RateLimited(
                "Too many requests are waiting in this lane of the WebSocket connection. "
                "Wait for some of its responses to end, or open a new connection.",
                code="websocket_queue_limit_reached",
            )

    async def _in_lane(self, turn: Turn, before: asyncio.Task[None] | None) -> None:
        """Wait for the lane, then for one of the connection's places."""
        if before:
            await asyncio.wait([before])
        async with self._active:
            self._waiting[turn.lane] -= 1
            self._waiting_bytes -= turn.size_bytes
            if self._peer.is_gone:
                return
            if refusal := self._refusal or self._stopping():
                await turn.refuse(refusal)
            else:
                await turn.run()

    def _stopping(self) -> ServiceError | None:
        return Unavailable("The server is shutting down.") if self._it.stopping.is_set() else None

    def _ended(self, task: asyncio.Task[None], turn: Turn) -> None:
        self._turns.pop(task, None)
        if self._last_of.get(turn.lane) is task:
            del self._last_of[turn.lane]

    async def _identify(self) -> Caller:
        """Who holds the key now, which may have ended or changed since the connection was opened.

        Raises:
            Unauthenticated: nobody; the connection is closed.
            Forbidden: it may not create any more.
        """
        caller = await self._held(self._keyring.caller)
        check_scope(caller, Scope.WRITE)
        return caller

    async def _held(self, look: Callable[[str | None], Awaitable[Caller]]) -> Caller:
        try:
            caller = await look(key_in(self._headers))
        except Unauthenticated:
            self._locked_out.set()
            raise
        if caller.tenant_id != self._tenant_id:
            # The first key of a server was made meanwhile: what was everybody's has an owner now.
            self._locked_out.set()
            raise Unauthenticated
        return caller

    async def _watch_key(self) -> None:
        """See with each ping whether the key still counts, until it does not: no create may come for hours,
        while what is remembered is kept for whoever held it.
        """
        while not self._locked_out.is_set():
            await asyncio.sleep(self._it.settings.websocket_ping_seconds)
            try:
                await self._held(self._keyring.standing)
            except Unauthenticated as error:
                self._refusal = error
            except Unavailable:
                # As for any request, what was last seen counts while Postgres is away.
                continue
            except Exception:
                log.exception("keys.unseen")


def _too_many_lanes() -> InvalidRequest:
    return InvalidRequest(
        f"This WebSocket connection has reached its maximum number of distinct stream IDs ({MAX_LANES}). "
        "Reuse an existing stream_id or open a new WebSocket connection.",
        code="websocket_stream_limit_reached",
        param="stream_id",
    )


def _expired() -> InvalidRequest:
    return InvalidRequest(
        "Responses websocket connection limit reached (60 minutes). "
        "Create a new websocket connection to continue.",
        code="websocket_connection_limit_reached",
    )
