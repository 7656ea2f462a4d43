"""The family of a response: who it came from, and who came of it. `lineage` walks the same lines for their
items; here nobody's content is read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa

from app.domain.response import Status
from app.store.db import ReadTx, Row
from app.store.lineage import lines
from app.store.statements import EPHEMERAL, ITEMS, Statement
from app.store.tables import response_facts as f
from app.store.tables import responses as t

_p = sa.bindparam
_mine = sa.and_(t.c.tenant_id == _p("tenant_id"), t.c.mode < EPHEMERAL, t.c.mode < ITEMS)
_columns = (t.c.id, t.c.previous_id, t.c.conversation_id, t.c.seq, t.c.status, t.c.model, t.c.deleted_at)

_first = t.alias("first")
_root_id = sa.func.coalesce(t.c.fork_chains[sa.literal_column("1")], t.c.chain_id)
# A line is named by its first response, or by its conversation; which of them, only a row can tell.
_one = Statement(
    sa.select(
        *_columns,
        _root_id.label("root_id"),
        sa.exists().where(_first.c.tenant_id == t.c.tenant_id, _first.c.id == _root_id).label("is_response"),
    ).where(_mine, t.c.id == _p("id"), t.c.deleted_at.is_(None))
)


def _walk() -> Statement:
    """The nearest ancestors first, each line read back from where it was left, by uq_responses__line."""
    tip = (
        sa.select(t.c.chain_id, t.c.seq, t.c.fork_chains, t.c.fork_seqs)
        .where(_mine, t.c.id == _p("id"))
        .cte("tip")
        .prefix_with("materialized", dialect="postgresql")
    )
    line = lines(sa.select(tip.c.chain_id.label("chain"), (tip.c.seq - 1).label("upto")), tip)
    turn = (
        sa.select(*_columns)
        .where(_mine, t.c.chain_id == line.c.chain, t.c.seq <= line.c.upto, t.c.seq < _p("below"))
        .order_by(t.c.seq.desc())
        .limit(_p("limit"))
        .lateral("turn")
    )
    query = sa.select(turn).select_from(line.join(turn, sa.true()))
    return Statement(query.order_by(turn.c.seq.desc()).limit(_p("limit")))


_ancestors = _walk()
# In the order of their creation; by ix_response_facts__previous_id. A failed one is nobody's turn, and is
# told of all the same.
_children = Statement(
    sa.select(*_columns)
    .select_from(f.join(t, sa.and_(t.c.tenant_id == f.c.tenant_id, t.c.id == f.c.id)))
    .where(
        f.c.tenant_id == _p("tenant_id"),
        f.c.previous_id == _p("id"),
        f.c.id > _p("after"),
        t.c.deleted_at.is_(None),
    )
    .order_by(f.c.id)
    .limit(_p("limit"))
)


@dataclass(frozen=True, slots=True)
class Relative:
    """A response as its family shows it."""

    id: UUID
    previous: UUID | None
    conversation: UUID | None
    depth: int
    """Turns before it, those that clients added to a conversation among them."""
    status: Status
    model: str
    is_deleted: bool


@dataclass(frozen=True, slots=True)
class Root:
    """What a response goes back to."""

    id: UUID
    is_conversation: bool
    """Else it is the first response of the line."""


async def get(tx: ReadTx, response_id: UUID) -> tuple[Relative, Root] | None:
    """The response and its root, which may have been deleted; None if it is missing, deleted or foreign."""
    row = await tx.fetch_one(_one, id=response_id)
    return (_relative(row), Root(UUID(int=row["root_id"].int), not row["is_response"])) if row else None


async def ancestors(tx: ReadTx, response_id: UUID, *, below: int, limit: int) -> Sequence[Relative]:
    """Up to `limit` responses before it, the nearest first, at depths less than `below`; deleted ones too."""
    rows = await tx.fetch(_ancestors, id=response_id, below=below, limit=limit)
    return [_relative(row) for row in rows]


async def children(tx: ReadTx, response_id: UUID, *, after: UUID | None, limit: int) -> Sequence[Relative]:
    """Up to `limit` responses chained on it, oldest first, behind the cursor."""
    rows = await tx.fetch(_children, id=response_id, after=after or UUID(int=0), limit=limit)
    return [_relative(row) for row in rows]


def _relative(row: Row) -> Relative:
    return Relative(
        id=UUID(int=row["id"].int),
        previous=row["previous_id"] and UUID(int=row["previous_id"].int),
        conversation=row["conversation_id"] and UUID(int=row["conversation_id"].int),
        depth=row["seq"],
        status=Status(row["status"]),
        model=row["model"],
        is_deleted=row["deleted_at"] is not None,
    )
