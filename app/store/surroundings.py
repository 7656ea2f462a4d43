"""What a reader of one turn looks for beside it: its times, the turns next to it, and which turns are
responses. All of it by primary key, or by the place in a line.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from app.domain.items import split
from app.domain.turn import Place
from app.store import lineage
from app.store.codec import decompress, head
from app.store.db import ReadTx, Row
from app.store.statements import EPHEMERAL, ITEMS, Statement
from app.store.tables import responses as t

_p = sa.bindparam
_mine = t.c.tenant_id == _p("tenant_id")
_alive = t.c.deleted_at.is_(None)
_most = _p("most", type_=sa.Integer)

_standing = Statement(
    sa.select(t.c.chain_id, t.c.seq, t.c.fork_chains, t.c.fork_seqs, t.c.queued_at, t.c.finished_at).where(
        _mine, _alive, t.c.id == _p("id")
    )
)
_at = Statement(
    sa.select(t.c.id, t.c.codec, t.c["items"]).where(
        _mine, _alive, t.c.chain_id == _p("chain"), t.c.seq == _p("seq"), t.c.mode < EPHEMERAL
    )
)
# Both sizes are in the row: what is too large, or would unfold to too much, is not even fetched.
_glances = Statement(
    sa.select(
        t.c.id,
        t.c.finished_at,
        t.c.codec,
        t.c.input_bytes,
        sa.case(
            (sa.and_(sa.func.octet_length(t.c["items"]) <= _most, t.c.input_bytes <= _most), t.c["items"])
        ).label("items"),
    ).where(_mine, t.c.id == sa.func.any(_p("ids", type_=pg.ARRAY(pg.UUID))))
)
_among = Statement(
    sa.select(t.c.id).where(
        _mine, _alive, t.c.mode < ITEMS, t.c.id == sa.func.any(_p("ids", type_=pg.ARRAY(pg.UUID)))
    )
)


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a response stands in its line, and in time."""

    place: Place
    queued_at: datetime | None
    finished_at: datetime | None

    @property
    def before(self) -> tuple[UUID, int] | None:
        """The place of the turn that it follows; None for the first of all."""
        if self.place.forks and self.place.seq == self.place.forks[-1][1] + 1:
            return self.place.forks[-1]
        return (self.place.chain_id, self.place.seq - 1) if self.place.seq else None

    @property
    def after(self) -> tuple[UUID, int]:
        """The place of the turn that follows on the same line, if there is one."""
        return self.place.chain_id, self.place.seq + 1


@dataclass(frozen=True, slots=True)
class Glance:
    """What a list shows of a response beside its body."""

    finished_at: datetime | None
    input_blob: bytes | None
    """None where it is too large to be looked into."""


async def standing(tx: ReadTx, response_id: UUID) -> Standing | None:
    """None if there is no such response, it was deleted, or it is another tenant's (law L7)."""
    row = await tx.fetch_one(_standing, id=response_id)
    return Standing(lineage.place(row), row["queued_at"], row["finished_at"]) if row else None


async def items_at(tx: ReadTx, place: tuple[UUID, int]) -> tuple[UUID, list[dict[str, Any]]] | None:
    """The turn at a place with all its items; None where there is none, or it was deleted."""
    row = await tx.fetch_one(_at, chain=place[0], seq=place[1])
    return (UUID(int=row["id"].int), split(decompress(row["items"], row["codec"]))) if row else None


async def glances(tx: ReadTx, response_ids: Collection[UUID], *, most_bytes: int) -> dict[UUID, Glance]:
    """What a list shows of each response beside its body.

    Args:
        most_bytes: of items that take more, compressed, or of an input that is larger, nothing is read.
    """
    rows = await tx.fetch(_glances, ids=list(response_ids), most=most_bytes)
    return {UUID(int=row["id"].int): _glance(row) for row in rows}


async def responses_among(tx: ReadTx, turn_ids: Collection[UUID]) -> set[UUID]:
    """Those of these turns that can be read as responses: not items that were added, not deleted."""
    return {UUID(int=row["id"].int) for row in await tx.fetch(_among, ids=list(turn_ids))}


def _glance(row: Row) -> Glance:
    blob = head(row["items"], row["codec"], row["input_bytes"]) if row["items"] else None
    return Glance(row["finished_at"], blob)
