"""Responses found by what is known of them: pages in the order of creation, after an exact cursor.

First the ids of a page are found, by an index that has their order. Words have an index without an order: see
`_by_words`. Bodies are then read by their keys, for one page's responses alone (docs/decisions/0024).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Generic, TypeVar
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from app.domain.search import Filters
from app.store import search_statements as statements
from app.store.db import ReadTx, Row, Tx
from app.store.responses import ListedResponse, StoredResponse
from app.store.search_statements import Shape
from app.store.statements import Statement
from app.store.tables import responses as t
from app.store.timed_words import spans

PAGE_BYTES = 16 << 20
"""Of rows with their items: as they are stored, the input as it was given. One row is always read."""

REACH = 200
"""So many responses that the other filters leave are looked through for words before their index is asked."""

_FIRST, _LAST = UUID(int=0), UUID(int=(1 << 128) - 1)

_p = sa.bindparam


def _within(*, newest_first: bool) -> Statement:
    """Of some responses the first that are not too much together, and how many there are of them all."""
    size = sa.func.octet_length(t.c.body) + sa.func.greatest(
        sa.func.octet_length(t.c["items"]), t.c.input_bytes
    )
    order = t.c.id.desc() if newest_first else t.c.id
    counted = (
        sa.select(
            t.c.id,
            sa.func.sum(size).over(order_by=order).label("upto"),
            sa.func.row_number().over(order_by=order).label("place"),
            sa.func.count().over().label("of_all"),
        )
        .where(
            t.c.tenant_id == _p("tenant_id"),
            t.c.id == sa.func.any(_p("ids", type_=pg.ARRAY(pg.UUID))),
            t.c.deleted_at.is_(None),
        )
        .subquery()
    )
    return Statement(
        sa.select(counted.c.id, counted.c.of_all).where(
            sa.or_(
                counted.c.upto <= _p("most", type_=sa.BigInteger),
                counted.c.place == sa.literal_column("1"),
            )
        )
    )


_WITHIN = {newest_first: _within(newest_first=newest_first) for newest_first in (True, False)}

_Each = TypeVar("_Each", ListedResponse, StoredResponse)


@dataclass(frozen=True, slots=True)
class Page(Generic[_Each]):
    """Responses in order, and whether more follow."""

    found: Sequence[_Each]
    has_more: bool


async def recent(
    tx: ReadTx, *, limit: int, newest_first: bool = True, after: UUID | None = None
) -> Page[ListedResponse]:
    """As `find` without filters, and without its transaction: one statement, by pk_responses."""
    edge = after or (_LAST if newest_first else _FIRST)
    rows = await tx.fetch(statements.RECENT[newest_first], edge=edge, limit=limit + 1)
    return Page([ListedResponse.from_row(row) for row in rows[:limit]], len(rows) > limit)


async def find(
    tx: Tx, filters: Filters, *, limit: int, newest_first: bool = True, after: UUID | None = None
) -> Page[ListedResponse]:
    """Up to `limit` stored responses beyond the cursor for which all filters hold; not even their items
    are read.

    What was noted but is not settled yet may be missing: `generation.ledger` settles first. A transaction
    (`begin`), because it has to be planned for the values that are asked for.
    """
    rows, has_more = await _page(tx, filters, limit, newest_first=newest_first, after=after, has_items=False)
    return Page([ListedResponse.from_row(row) for row in rows], has_more)


async def find_whole(
    tx: Tx, filters: Filters, *, limit: int, newest_first: bool = True, after: UUID | None = None
) -> Page[StoredResponse]:
    """The same with their items; fewer, and more to follow, where these have more than `PAGE_BYTES`."""
    rows, has_more = await _page(tx, filters, limit, newest_first=newest_first, after=after, has_items=True)
    return Page([StoredResponse.from_row(row) for row in rows], has_more)


async def _page(
    tx: Tx, filters: Filters, limit: int, *, newest_first: bool, after: UUID | None, has_items: bool
) -> tuple[Sequence[Row], bool]:
    """Rows in their order, and whether more follow.

    What was deleted and is not settled yet is passed over; a page is empty only at the end.
    """
    shape, values = Shape.of(filters, newest_first=newest_first), statements.values(filters)
    look = _by_words if filters.words is not None else _listed
    edge = after or (_LAST if newest_first else _FIRST)
    await tx.fetch(statements.PLAN_FOR_PAGES)
    while True:
        found = await look(tx, shape, values, edge, limit + 1)
        wanted, is_cut = found[:limit], False
        if has_items and wanted:
            wanted, is_cut = await _bounded(tx, wanted, newest_first=newest_first)
        rows = await tx.fetch(statements.ROWS[has_items], ids=wanted) if wanted else ()
        has_more = is_cut or len(found) > limit
        if rows or not has_more:
            return sorted(rows, key=itemgetter("id"), reverse=newest_first), has_more
        edge = found[limit - 1]


async def _bounded(tx: Tx, ids: Sequence[UUID], *, newest_first: bool) -> tuple[list[UUID], bool]:
    """Those of a page that fit into it, and whether some did not."""
    rows = await tx.fetch(_WITHIN[newest_first], ids=ids, most=PAGE_BYTES)
    return [row["id"] for row in rows], bool(rows) and len(rows) < rows[0]["of_all"]


async def _listed(tx: Tx, shape: Shape, values: Mapping[str, Any], edge: UUID, limit: int) -> list[UUID]:
    """The ids beyond the edge of those that the filters leave, but for words."""
    rows = await tx.fetch(statements.listed(shape), **values, edge=edge, limit=limit)
    return [row["id"] for row in rows]


async def _by_words(tx: Tx, shape: Shape, values: Mapping[str, Any], edge: UUID, limit: int) -> list[UUID]:
    """The ids beyond the edge of those that have the words.

    What is common is found among the first that the other filters leave. What is not, is looked for in the
    index of words, in one span of time after the other.
    """
    first = await _listed(tx, shape, values, edge, REACH)
    near = await tx.fetch(statements.NEAR, ids=first, words=values["words"])
    found = sorted((row["id"] for row in near), reverse=shape.is_newest_first)[:limit]
    if len(first) < REACH or len(found) == limit:
        return found
    [end] = await tx.fetch(statements.ENDS[shape.is_newest_first])
    low, high = values.get("created_after", _FIRST), values.get("created_before", _LAST)
    stop, beyond, rest = first[-1], max(low, min(high, end["id"])), limit - len(found)
    ahead = spans(tx.tenant_id, first[0], stop, beyond, newest_first=shape.is_newest_first)
    rows = await tx.fetch(statements.far(shape), **values, edge=stop, spans=ahead, limit=rest)
    return found + [row["id"] for row in rows]
