"""Give out stored responses and the trail that vouches for them, as lines, from any cursor on.

A page is read in a transaction of its own and said after that, so that no connection waits for a slow
reader. Whatever goes wrong breaks the lines off: only the manifest, the last line, makes them an export.
"""

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson

from app.domain.audit import Action, Checkpoint, Record
from app.domain.export import NOTHING, Bounds, Chain, Ending, Export, Place, encode
from app.domain.export_lines import checkpoint_line, header_line, manifest_line, record_line, response_line
from app.domain.tenancy import Caller
from app.store import audit, exports, outbox, search
from app.store.db import Database
from app.store.responses import StoredResponse

FIRST_ROWS = 10
MAX_ROWS = 100
PAGE_BYTES = 1 << 20
"""A page grows from few responses to many, or to so many bytes as far as one page foretells the next."""

RECORDS = 500


@dataclass(frozen=True, slots=True)
class Exported:
    """A response as an export gives it out."""

    stored: StoredResponse
    how: Ending

    @property
    def line(self) -> bytes:
        each = self.stored
        return response_line(each.body, each.input_blob, each.output_blob, self.how)


async def lines(db: Database, caller: Caller, export: Export, chain: Chain) -> AsyncGenerator[bytes]:
    """The lines of an export that are still to come, some at a time; the manifest is the last, by itself.

    Raises:
        Unavailable: Postgres went away. Once it is back, the lines go on behind their last cursor.
    """
    place = chain.place
    if not place.size:
        yield chain.add(header_line(export)) + _cursor(export, chain)
    async for page in responses(db, caller, export, after=place.response):
        yield b"".join(_said(export, chain, page))
    # There is no way back from the trail to a response.
    place.response = max(place.response, export.bounds.until)
    async for records, checkpoints in _trail(db, caller, export, after=place.seq):
        yield b"".join(_told(export, chain, records, checkpoints))
    chain.close()
    manifest = manifest_line(export, place)
    await end(db, caller, export, orjson.loads(manifest))
    yield manifest


async def trail_lines(db: Database, caller: Caller, export: Export) -> AsyncGenerator[bytes]:
    """The same without any responses: a header, the segment of the trail, and a manifest of that."""
    bounds = export.bounds
    chain = Chain(Place(response=bounds.until, seq=bounds.audit_after.seq))
    yield chain.add(header_line(export)) + _cursor(export, chain)
    async for records, checkpoints in _trail(db, caller, export, after=chain.place.seq):
        yield b"".join(_told(export, chain, records, checkpoints))
    chain.close()
    yield manifest_line(export, chain.place)


async def responses(
    db: Database, caller: Caller, export: Export, *, after: UUID = NOTHING
) -> AsyncGenerator[list[Exported]]:
    """What the filters find and had ended, in the order of creation, page by page."""
    limit = FIRST_ROWS
    while after < export.bounds.until:
        async with db.begin(caller) as tx:
            page = await search.find_whole(tx, export.filters, limit=limit, newest_first=False, after=after)
            how = await exports.endings(tx, [each.id for each in page.found])
        if ended := [
            Exported(each, how[each.id]) for each in page.found if _belongs(each, how[each.id], export.bounds)
        ]:
            yield ended
        if not page.has_more:
            return
        after, limit = page.found[-1].id, _next_limit(limit, page.found)


async def end(db: Database, caller: Caller, export: Export, said: Mapping[str, Any]) -> None:
    """Note that an export has come to its end, and what it was."""
    counts = {name: value for name, value in said.items() if name not in {"object", "id"}}
    await note(db, caller, {"export": export.name, "state": "ended", **counts})


def _next_limit(limit: int, found: Sequence[StoredResponse]) -> int:
    """So many that a page has about `PAGE_BYTES`, if the next ones are like these."""
    size = sum(len(each.body) + len(each.input_blob) + len(each.output_blob) for each in found)
    return max(1, min(MAX_ROWS, 2 * limit, PAGE_BYTES * len(found) // max(size, 1)))


def _belongs(each: StoredResponse, how: Ending, bounds: Bounds) -> bool:
    return each.id <= bounds.until and how.finished_at is not None and how.finished_at < bounds.before


def _said(export: Export, chain: Chain, page: Sequence[Exported]) -> Iterator[bytes]:
    """Responses as lines, and the cursors that are due among them."""
    for each in page:
        yield chain.add(each.line)
        chain.place.response = each.stored.id
        chain.place.responses += 1
        if chain.is_due:
            yield _cursor(export, chain)


def _told(
    export: Export, chain: Chain, records: Sequence[Record], checkpoints: Mapping[int, Checkpoint]
) -> Iterator[bytes]:
    """Records as lines, each with its checkpoint behind it, and the cursors that are due among them."""
    # The one that the segment begins behind.
    if chain.place.seq in checkpoints:
        yield chain.add(checkpoint_line(checkpoints[chain.place.seq]))
    for record in records:
        yield chain.add(record_line(record))
        if record.seq in checkpoints:
            yield chain.add(checkpoint_line(checkpoints[record.seq]))
        chain.place.seq = record.seq
        chain.place.audit_records += 1
        if chain.is_due:
            yield _cursor(export, chain)


async def _trail(
    db: Database, caller: Caller, export: Export, *, after: int
) -> AsyncGenerator[tuple[list[Record], dict[int, Checkpoint]]]:
    """The segment of the trail page by page, with its checkpoints by their places."""
    bounds = export.bounds
    # A cursor behind the first record never stands at the beginning, where that checkpoint belongs.
    floor = after - 1 if after == bounds.audit_after.seq else after
    while True:
        async with db.read(caller) as tx:
            page = await audit.page(tx, limit=RECORDS, newest_first=False, after=after)
            found = await audit.checkpoints(tx, after=floor, limit=RECORDS + 1)
        records = [record for record in page if record.seq <= bounds.audit_until.seq]
        last = records[-1].seq if records else after
        end = last if bounds.is_vouched or last < bounds.audit_until.seq else last - 1
        yield records, {each.seq: each for each in found if each.seq <= end}
        if len(records) < RECORDS:
            return
        after = floor = last


def _cursor(export: Export, chain: Chain) -> bytes:
    chain.close()
    return chain.open(encode(export, chain.place))


async def note(db: Database, caller: Caller, data: Mapping[str, Any]) -> None:
    """Note how far an export has come, in the trail."""
    async with db.autocommit(caller) as tx:
        await outbox.note(tx, Action.RESPONSES_EXPORTED, None, data)
