"""The items of a conversation: found by their ids, read in pages, taken out. All in the order of their
places (law L9).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from app import ids
from app.domain.items import split
from app.domain.turn import Continuation, Place
from app.store import lineage
from app.store.codec import decompress
from app.store.db import ReadTx, Row, Tx
from app.store.statements import Statement, storable
from app.store.tables import item_aliases as alias
from app.store.tables import removed_items as removed
from app.store.tables import responses as t

_p = sa.bindparam


@dataclass(frozen=True, slots=True)
class StoredItem:
    """An item and where it stands."""

    turn: Place
    turn_id: UUID
    place: int
    """Which item of its turn."""
    item: dict[str, Any]

    @property
    def id(self) -> str:
        return self.item["id"]


@dataclass(frozen=True, slots=True)
class Last:
    """What the last turn of a conversation leaves for the next one."""

    continuation: Continuation
    tokens: int


def _by_ids() -> Statement:
    """Turns in these lines that may have these ids: by pk_responses, and by pk_item_aliases."""
    line = lineage.given_lines()
    ours = (
        sa.func.unnest(_p("ids", type_=pg.ARRAY(sa.Text)), _p("turns", type_=pg.ARRAY(pg.UUID)))
        .table_valued(sa.column("item_id", sa.Text), sa.column("turn_id", pg.UUID))
        .render_derived("ours")
    )
    wanted = (
        sa.func.unnest(_p("wanted", type_=pg.ARRAY(sa.Text)))
        .table_valued(sa.column("item_id", sa.Text))
        .render_derived("wanted")
    )
    # Sorted as the index is, so that each name is looked for by itself, and never in all of the tenant's.
    bringing = (
        sa.select(alias.c.turn_id)
        .where(alias.c.tenant_id == _p("tenant_id"), alias.c.item_id == wanted.c.item_id)
        .order_by(alias.c.turn_id)
        .lateral("bringing")
    )
    brought = sa.select(wanted.c.item_id, bringing.c.turn_id).select_from(wanted.join(bringing, sa.true()))
    named = sa.union_all(sa.select(ours.c.item_id, ours.c.turn_id), brought).cte("named")
    # A subquery with a limit cannot be merged into the join. The planner might otherwise look for the
    # turn in all of its line.
    turn = (
        sa.select(*lineage.turn_columns(line))
        .where(t.c.tenant_id == _p("tenant_id"), t.c.id == named.c.turn_id)
        .limit(1)
        .lateral("turn")
    )
    is_along = sa.and_(turn.c.chain_id == line.c.chain, turn.c.seq <= line.c.upto)
    return Statement(
        sa.select(named.c.item_id, turn).select_from(named.join(turn, sa.true()).join(line, is_along))
    )


_find = _by_ids()


def _turns(*, newest_first: bool) -> Statement:
    """Turns of one line between two places, in order: by uq_responses__line, no more than are wanted."""
    query = (
        sa.select(*lineage.turn_columns(lineage.given_lines()))
        .where(
            t.c.tenant_id == _p("tenant_id"),
            t.c.chain_id == _p("chain"),
            t.c.seq.between(_p("first"), _p("last")),
        )
        .order_by(t.c.seq.desc() if newest_first else t.c.seq)
        .limit(_p("limit"))
    )
    return Statement(query)


_pages = {newest: _turns(newest_first=newest) for newest in (True, False)}

_last = Statement(
    sa.select(t.c.continuation, t.c.context_tokens).where(
        t.c.tenant_id == _p("tenant_id"), t.c.chain_id == _p("chain"), t.c.seq == _p("seq")
    )
)
_remove = Statement(
    pg.insert(removed)
    .values({name: _p(name) for name in ("tenant_id", "conversation_id", "turn_id", "place", "since_seq")})
    .on_conflict_do_nothing()
)
_was_here = Statement(
    sa.select(removed.c.since_seq).where(
        removed.c.tenant_id == _p("tenant_id"),
        removed.c.turn_id == _p("turn_id"),
        removed.c.conversation_id == _p("conversation_id"),
        removed.c.place == _p("place"),
        removed.c.since_seq > 0,
    )
)


def _copy_removed() -> Statement:
    """What is not seen from these lines is not seen from a conversation that begins with them."""
    line = lineage.given_lines()
    seen = (
        sa.select(
            removed.c.tenant_id, _p("fork", type_=pg.UUID), removed.c.turn_id, removed.c.place, sa.literal(0)
        )
        .select_from(removed.join(line, removed.c.conversation_id == line.c.chain))
        .where(removed.c.tenant_id == _p("tenant_id"), removed.c.since_seq <= line.c.upto)
    )
    columns = ["tenant_id", "conversation_id", "turn_id", "place", "since_seq"]
    return Statement(pg.insert(removed).from_select(columns, seen).on_conflict_do_nothing())


_copy = _copy_removed()


async def last(tx: ReadTx, here: Place) -> Last:
    """What the turn at `here` leaves; nothing, if there is none yet."""
    row = await tx.fetch_one(_last, chain=here.chain_id, seq=here.seq)
    if row is None:
        return Last(Continuation(), 0)
    return Last(lineage.decode_continuation(row["continuation"]) or Continuation(), row["context_tokens"])


async def find(tx: ReadTx, here: Place, item_ids: Iterable[str]) -> dict[str, StoredItem]:
    """The items with these ids in a conversation whose last turn is at `here`; others are left out."""
    exact = set(item_ids)
    found = (stored for row in await _named(tx, here, exact) for stored in _items(row))
    return {stored.id: stored for stored in found if stored.id in exact}


async def cursor(tx: ReadTx, here: Place, item_id: str) -> StoredItem | None:
    """Where an item stands, or stood until it was taken out: who empties a list page by page goes on."""
    rows = await _named(tx, here, {item_id})
    for stored in (stored for row in rows for stored in _items(row) if stored.id == item_id):
        return stored
    past = [stored for row in rows for stored in _all_items(row) if stored.id == item_id]
    for stored in sorted(past, key=lambda each: each.turn.seq, reverse=True):
        # What was never in a fork is no cursor there: it was left out from the beginning.
        if await tx.fetch_one(
            _was_here, conversation_id=here.chain_id, turn_id=stored.turn_id, place=stored.place
        ):
            return stored
    return None


async def _named(tx: ReadTx, here: Place, item_ids: Iterable[str]) -> Sequence[Row]:
    """The turns that may have items of these ids, whether or not they were taken out."""
    wanted = [storable(name) for name in item_ids]
    ours = [(name, place[0]) for name in wanted if (place := ids.parse_item_id(name))]
    return await tx.fetch(
        _find,
        wanted=wanted,
        ids=[name for name, _ in ours],
        turns=[turn_id for _, turn_id in ours],
        **_arguments(here),
    )


async def page(
    tx: ReadTx, here: Place, *, after: StoredItem | None, newest_first: bool, limit: int
) -> list[StoredItem]:
    """Up to `limit` items beyond a cursor. As many turns are read as that takes.

    Whoever appends meanwhile appends behind `here`, so pages neither skip nor repeat.
    """
    step, found = -1 if newest_first else 1, list[StoredItem]()
    stretches = _stretches(here, after.turn.seq if after else None, newest_first=newest_first)
    while stretches and len(found) < limit:
        chain, first, last = stretches.pop(0)
        rows = await tx.fetch(
            _pages[newest_first], chain=chain, first=first, last=last, limit=limit, **_arguments(here)
        )
        items = (stored for row in rows for stored in _items(row)[::step])
        found += [stored for stored in items if after is None or _steps(after, stored) * step > 0]
        if len(rows) == limit:
            read = rows[-1]["seq"]
            stretches.insert(0, (chain, first, read - 1) if newest_first else (chain, read + 1, last))
    return found[:limit]


async def remove(tx: Tx, conversation_id: UUID, gone: Sequence[StoredItem], *, since_seq: int) -> None:
    """Take items out for all turns from that place on; earlier ones were given them, and keep them."""
    for stored in gone:
        await tx.fetch(
            _remove,
            conversation_id=conversation_id,
            turn_id=stored.turn_id,
            place=stored.place,
            since_seq=since_seq,
        )


async def copy_removed(tx: Tx, here: Place, fork: UUID) -> None:
    """Take the same items out of a conversation that was forked at `here`."""
    await tx.fetch(_copy, fork=fork, **_arguments(here))


def _arguments(here: Place) -> dict[str, Any]:
    own = ((here.chain_id, here.seq), *here.forks)
    return {"chains": [chain for chain, _ in own], "seqs": [seq for _, seq in own]}


def _items(row: Row) -> list[StoredItem]:
    """The items that a turn still has here."""
    gone = set[int](row["removed"] or ())
    return [stored for stored in _all_items(row) if stored.place not in gone]


def _all_items(row: Row) -> list[StoredItem]:
    turn, turn_id = Place(row["chain_id"], row["seq"]), UUID(int=row["id"].int)
    items = split(decompress(row["items"], row["codec"]))
    return [StoredItem(turn, turn_id, place, item) for place, item in enumerate(items)]


def _stretches(here: Place, from_seq: int | None, *, newest_first: bool) -> list[tuple[UUID, int, int]]:
    """The lines in the order of the walk, each with the first and the last place that is still to come."""
    stretches, begin = list[tuple[UUID, int, int]](), 0
    for chain, upto in (*here.forks, (here.chain_id, here.seq)):
        first, last = begin, upto
        if from_seq is not None:
            first, last = (first, min(last, from_seq)) if newest_first else (max(first, from_seq), last)
        stretches.append((chain, first, last))
        begin = upto + 1
    return stretches[:: -1 if newest_first else 1]


def _steps(start: StoredItem, end: StoredItem) -> int:
    """Positive if `end` stands behind `start`, negative if before it."""
    there, here = (end.turn.seq, end.place), (start.turn.seq, start.place)
    return (there > here) - (there < here)
