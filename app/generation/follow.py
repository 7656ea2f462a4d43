"""Read a background stream from anywhere in it to its end, while it is being made or long after."""

import asyncio
import re
from collections.abc import AsyncGenerator
from uuid import UUID

from app import ids
from app.domain.events import error_event, terminal_event
from app.domain.response import TERMINAL, Status
from app.domain.tenancy import Caller
from app.errors import NotFound, Unavailable
from app.generation.rebuild import rebuild
from app.store import events, responses
from app.store.db import Database
from app.store.notifications import Notifications

RETRY_SECONDS = 1.0

IDLE = b""
"""What a follower is given when there was nothing to give for a while."""

MAX_SEQUENCE_NUMBER = (1 << 31) - 1

_PADDING = re.compile(rb',"obfuscation":"[0-9a-f]*"(?=\}\n\n)')
"""The last key of an event: whatever of that name a client or an upstream has sent stands deeper."""


async def follow(
    db: Database,
    caller: Caller,
    notifications: Notifications,
    response_id: UUID,
    *,
    after: int,
    is_padded: bool,
    poll_seconds: float,
) -> AsyncGenerator[bytes]:
    """The frames of every event beyond `after`, ending after the terminal one; `IDLE` now and then.

    The same bytes as the live stream (law L1), for any number of followers. Each subscribes before it
    looks, so nothing falls between; a lost notification costs one poll.
    """
    after = max(-1, min(after, MAX_SEQUENCE_NUMBER))
    with notifications.subscribed(str(response_id)) as news:
        while True:
            news.clear()
            try:
                status, batches = await _look(db, caller, response_id, after)
                is_over = not batches and (status is None or status in TERMINAL)
                end = await _end(db, caller, response_id, after) if is_over else b""
            except Unavailable:
                # The stream has begun, and goes on where it was once Postgres is back.
                await _heard(news, min(poll_seconds, RETRY_SECONDS))
                yield IDLE
                continue
            for last_seq, frames in batches:
                yield _cut(frames, last_seq, after, is_padded=is_padded)
                after = last_seq
            if is_over:
                yield end
                return
            if not batches and not await _heard(news, poll_seconds):
                yield IDLE


async def _look(
    db: Database, caller: Caller, response_id: UUID, after: int
) -> tuple[Status | None, list[tuple[int, bytes]]]:
    """The state first: if it is terminal, every event had been stored before it."""
    async with db.read(caller) as tx:
        status = await responses.status(tx, response_id)
        return status, await events.read_after(tx, response_id, after)


async def _end(db: Database, caller: Caller, response_id: UUID, after: int) -> bytes:
    """What follows the journal: events that have left it, said again, and the terminal one.

    Of a stream whose shape was not kept, as of a cancelled response, only beginning and end are. Where the
    response is gone, deleted or forgotten since, nobody can tell its outcome any more.
    """
    async with db.read(caller) as tx:
        stored = await responses.get(tx, response_id)
        if stored is None:
            gone = NotFound(f"Response with id '{ids.response_id(response_id)}' not found.")
            return error_event(gone, after + 1).frame
        if after >= stored.event_count:
            return b""
        is_missing = after < stored.event_count - 1
        shape = await responses.shape(tx, response_id) if is_missing else None
    said = rebuild(stored, shape) if is_missing else []
    said.append(terminal_event(stored.status, stored.event_count, stored.json()))
    return b"".join(event.frame for event in said if event.sequence_number > after)


def _cut(frames: bytes, last_seq: int, after: int, *, is_padded: bool) -> bytes:
    """Those of a batch's frames that lie beyond the cursor, which is rarely inside it."""
    each = frames.split(b"\n\n")[:-1]
    first_seq = last_seq - len(each) + 1
    if first_seq <= after:
        frames = b"".join(frame + b"\n\n" for frame in each[after - first_seq + 1 :])
    return frames if is_padded else _PADDING.sub(b"", frames)


async def _heard(news: asyncio.Event, patience_seconds: float) -> bool:
    try:
        async with asyncio.timeout(patience_seconds):
            await news.wait()
    except TimeoutError:
        return False
    return True
