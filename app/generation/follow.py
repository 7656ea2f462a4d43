"""Read a background stream from anywhere in it to its end, while it is being made or long after."""

import asyncio
import re
from collections.abc import AsyncGenerator
from uuid import UUID

from app.domain.events import terminal_event
from app.domain.response import TERMINAL
from app.domain.tenancy import Caller
from app.generation.rebuild import rebuild
from app.store import events, responses
from app.store.db import Database
from app.store.notifications import Notifications
from app.store.responses import StoredResponse

IDLE = b""
"""What a follower is given when there was nothing to give for a while."""

_PADDING = re.compile(rb',"obfuscation":"[0-9a-f]*"')
"""An unescaped quote cannot stand inside a JSON string, so this matches our own key alone."""


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
    with notifications.subscribed(str(response_id)) as news:
        while True:
            news.clear()
            # The state first: if it is terminal, every event had been stored before it.
            async with db.read(caller) as tx:
                stored = await responses.get(tx, response_id)
                batches = await events.read_after(tx, response_id, after)
            for last_seq, frames in batches:
                yield _cut(frames, last_seq, after, is_padded=is_padded)
                after = last_seq
            if batches:
                continue
            if stored is None:
                return
            if stored.status in TERMINAL:
                yield await _forgotten(db, caller, stored, after) + _terminal(stored, after)
                return
            if not await _heard(news, poll_seconds):
                yield IDLE


async def _forgotten(db: Database, caller: Caller, stored: StoredResponse, after: int) -> bytes:
    """Events that have left the journal, said again; none where no shape was kept (a cancelled stream)."""
    if after >= stored.event_count - 1:
        return b""
    async with db.read(caller) as tx:
        shape = await responses.shape(tx, stored.id)
    events_again = rebuild(stored, shape) if shape else []
    return b"".join(event.frame for event in events_again if event.sequence_number > after)


def _terminal(stored: StoredResponse, after: int) -> bytes:
    event = terminal_event(stored.status, stored.event_count, stored.json())
    return event.frame if event.sequence_number > after else b""


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
