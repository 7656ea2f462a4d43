"""Responses: append, read, walk, list, delete. The only writer of `status` (law L3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from app.domain.gates import Gated
from app.domain.response import Status
from app.domain.turn import Place, Turn, with_output
from app.store import lineage
from app.store.codec import CODEC, compress, decompress
from app.store.db import ReadTx, Row, Tx
from app.store.statements import Statement
from app.store.tables import responses as t

_p = sa.bindparam
_mine = t.c.tenant_id == _p("tenant_id")
_alive = t.c.deleted_at.is_(None)

_insert = Statement(
    pg.insert(t)
    .values({c.name: _p(c.name) for c in t.c if c.name not in {"finished_at", "deleted_at"}})
    .values(finished_at=sa.func.now())
    .on_conflict_do_nothing()
    .returning(t.c.id)
)

_columns = (
    t.c.id,
    t.c.status,
    t.c.codec,
    t.c.input_bytes,
    t.c.input_count,
    t.c.output_count,
    t.c.input_gated,
    t.c.output_gated,
    t.c.body,
    t.c["items"],
)
_get = Statement(sa.select(*_columns).where(_mine, t.c.id == _p("id"), _alive))

_delete = Statement(
    sa.update(t).where(_mine, t.c.id == _p("id"), _alive).values(deleted_at=sa.func.now()).returning(t.c.id)
)


def _page(*, newest_first: bool, has_model: bool) -> Statement:
    """A page after a cursor, by the primary key. A filter by model reads on until the page is full."""
    beyond = t.c.id < _p("after") if newest_first else t.c.id > _p("after")
    query = sa.select(t.c.id, t.c.codec, t.c.body).where(_mine, _alive, beyond)
    if has_model:
        query = query.where(t.c.model == _p("model"))
    return Statement(query.order_by(t.c.id.desc() if newest_first else t.c.id.asc()).limit(_p("limit")))


_pages = {
    (newest, model): _page(newest_first=newest, has_model=model)
    for newest in (True, False)
    for model in (True, False)
}

_FIRST, _LAST = UUID(int=0), UUID(int=(1 << 128) - 1)


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A row as it is read: bytes that are decoded only where someone looks inside."""

    id: UUID
    status: Status
    body: bytes
    input_blob: bytes
    output_blob: bytes
    input_gated: Gated
    output_gated: Gated

    @classmethod
    def from_row(cls, row: Row) -> "StoredResponse":
        items, cut = decompress(row["items"], row["codec"]), row["input_bytes"]
        return cls(
            id=UUID(int=row["id"].int),
            status=Status(row["status"]),
            body=decompress(row["body"], row["codec"]),
            input_blob=items[:cut],
            output_blob=items[cut:].removeprefix(b",") if row["input_count"] else items,
            input_gated=Gated(row["input_gated"]),
            output_gated=Gated(row["output_gated"]),
        )

    def json(self) -> bytes:
        """The response object as `create` answered it."""
        return with_output(self.body, self.output_blob)


@dataclass(frozen=True, slots=True)
class ListedResponse:
    """A row as a list shows it: its items, which may be large, are not even read."""

    id: UUID
    body: bytes
    """The response object with `"output":[]`."""

    @classmethod
    def from_row(cls, row: Row) -> "ListedResponse":
        return cls(UUID(int=row["id"].int), decompress(row["body"], row["codec"]))


async def append(tx: Tx, turn: Turn) -> None:
    """Store a finished turn at its place, or on a line of its own if another child was first there.

    Repeating it is harmless: a turn that is already stored stays as it is. That is what a caller
    needs whose connection broke before it learned the outcome of the commit.
    """
    if not await _put(tx, turn, turn.place) and turn.parent:
        await _put(tx, turn, turn.place.elsewhere(turn.id))


async def _put(tx: Tx, turn: Turn, place: Place) -> bool:
    both = (turn.input_blob, turn.output_blob)
    row = await tx.fetch_one(
        _insert,
        id=turn.id,
        previous_id=turn.parent,
        status=turn.status,
        codec=CODEC,
        model=_text(turn.model),
        input_count=turn.input_count,
        output_count=turn.output_count,
        input_bytes=len(turn.input_blob),
        input_gated=turn.input_gated,
        output_gated=turn.output_gated,
        continuation=lineage.encode_continuation(turn.continuation),
        body=compress(turn.body),
        items=compress(b",".join(blob for blob in both if blob)),
        **lineage.encode(place),
    )
    return row is not None


def _text(value: str) -> str:
    """What a text column can hold: Postgres refuses NUL there."""
    return value.replace("\0", "\ufffd")


async def get(tx: ReadTx, response_id: UUID) -> StoredResponse | None:
    """The response, or None if there is none, it was deleted, or it is another tenant's (law L7)."""
    row = await tx.fetch_one(_get, id=response_id)
    return StoredResponse.from_row(row) if row else None


async def page(
    tx: ReadTx, *, limit: int, newest_first: bool, after: UUID | None, model: str | None
) -> Sequence[ListedResponse]:
    """Up to `limit` responses after the cursor, in the order in which they were created."""
    statement = _pages[newest_first, model is not None]
    start = after or (_LAST if newest_first else _FIRST)
    rows = await tx.fetch(statement, after=start, limit=limit, model=_text(model or ""))
    return [ListedResponse.from_row(row) for row in rows]


async def delete(tx: Tx, response_id: UUID) -> bool:
    """Hide the response and bar it as a parent; descendants keep their context (behaviour 12).

    The row stays: its place in the line must never be free again, or the next child of its parent
    would slip in among the ancestors of this one's descendants.
    """
    return await tx.fetch_one(_delete, id=response_id) is not None
