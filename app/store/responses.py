"""Responses as they are read, one by its id; and hiding one. `lifecycle` writes them, `search` finds them."""

from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa

from app.domain.audit import Action
from app.domain.gates import Gated
from app.domain.jobs import Mode
from app.domain.response import Status
from app.domain.turn import with_output
from app.store.codec import decompress
from app.store.db import ReadTx, Row, Tx
from app.store.outbox import noting
from app.store.statements import ITEMS, Statement
from app.store.tables import responses as t

_p = sa.bindparam
_mine = t.c.tenant_id == _p("tenant_id")
_alive = sa.and_(t.c.deleted_at.is_(None), t.c.mode < ITEMS)

COLUMNS = (
    t.c.id,
    t.c.status,
    t.c.codec,
    t.c.input_bytes,
    t.c.input_count,
    t.c.output_count,
    t.c.input_gated,
    t.c.output_gated,
    t.c.mode,
    t.c.event_count,
    t.c.body,
    t.c["items"],
)
_get = Statement(sa.select(*COLUMNS).where(_mine, t.c.id == _p("id"), _alive))

_status = Statement(sa.select(t.c.status).where(_mine, t.c.id == _p("id"), _alive))

_shape = Statement(sa.select(t.c.codec, t.c.stream_shape).where(_mine, t.c.id == _p("id")))

_delete = noting(
    sa.update(t).where(_mine, t.c.id == _p("id"), _alive).values(deleted_at=sa.func.now()).returning(t.c.id),
    Action.RESPONSE_DELETED,
)


LISTED_COLUMNS = (t.c.id, t.c.codec, t.c.mode, t.c.status, t.c.body)


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
    mode: Mode
    event_count: int

    @classmethod
    def from_row(cls, row: Row) -> "StoredResponse":
        items, cut = decompress(row["items"], row["codec"]), row["input_bytes"]
        return cls(
            id=UUID(int=row["id"].int),
            status=Status(row["status"]),
            body=_body(row),
            input_blob=items[:cut],
            output_blob=items[cut:].removeprefix(b",") if row["input_count"] else items,
            input_gated=Gated(row["input_gated"]),
            output_gated=Gated(row["output_gated"]),
            mode=Mode(row["mode"]),
            event_count=row["event_count"],
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
        return cls(UUID(int=row["id"].int), _body(row))


def _body(row: Row) -> bytes:
    """A claim does not rewrite the body: the one word that it changes is put in here."""
    body = decompress(row["body"], row["codec"])
    if row["status"] != Status.IN_PROGRESS:
        return body
    return body.replace(b'"status":"queued"', b'"status":"in_progress"', 1)


async def get(tx: ReadTx, response_id: UUID) -> StoredResponse | None:
    """The response, or None if there is none, it was deleted, or it is another tenant's (law L7)."""
    row = await tx.fetch_one(_get, id=response_id)
    return StoredResponse.from_row(row) if row else None


async def status(tx: ReadTx, response_id: UUID) -> Status | None:
    """How far the response is, without reading what it says; None as for `get`."""
    row = await tx.fetch_one(_status, id=response_id)
    return Status(row["status"]) if row else None


async def shape(tx: ReadTx, response_id: UUID) -> bytes | None:
    """In which steps the output of a stream was said; None where that is not known."""
    row = await tx.fetch_one(_shape, id=response_id)
    return decompress(row["stream_shape"], row["codec"]) if row and row["stream_shape"] else None


async def delete(tx: Tx, response_id: UUID) -> bool:
    """Hide the response and bar it as a parent; descendants keep their context (behaviour 12).

    The row stays: its place in the line must never be free again, or the next child of its parent
    would slip in among the ancestors of this one's descendants.
    """
    return await tx.fetch_one(_delete, id=response_id, digest=None, data="{}") is not None
