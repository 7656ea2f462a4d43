"""One running response per conversation: taking, keeping and giving back the right to append to it.

The lock is a lease on the conversation's row. A foreground response renews it while it runs; a
background response, which is bound to end by its own lease, holds it until then. Every end of a
response gives it back in the same transaction: `lifecycle` does that.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from app.domain.conversation import Lock, Reading
from app.domain.turn import Place
from app.store import lineage
from app.store.db import ReadTx, Row, SystemTx, Tx
from app.store.statements import Statement
from app.store.tables import conversations as c
from app.store.tables import responses as t

_p = sa.bindparam
_soon = sa.func.now() + _p("lease", type_=sa.Interval)
_this = sa.and_(c.c.tenant_id == _p("tenant_id"), c.c.id == _p("id"), c.c.deleted_at.is_(None))
_until_its_end = sa.literal_column("'infinity'::timestamptz")
# Whoever ended that response: a process of the release before conversations knows nothing of their locks.
_has_ended = sa.and_(
    c.c.lease_until == _until_its_end,
    sa.exists().where(t.c.tenant_id == c.c.tenant_id, t.c.id == c.c.running_id, t.c.finished_at.is_not(None)),
)
IS_FREE = sa.or_(c.c.running_id.is_(None), c.c.lease_until < sa.func.now(), _has_ended)
IS_OURS = sa.and_(c.c.tenant_id == _p("tenant_id"), c.c.running_id == _p("holder", type_=pg.UUID))
FREE: dict[str, Any] = {"running_id": None, "lease_until": None}


def _read(*, takes: bool, is_cut: bool) -> Statement:
    """The conversation by its primary key, its lock where that is wanted, and the turns that it has.

    Where the lock is refused, there are no lines, and so no turn is read.
    """
    seen = (
        sa.select(c.c.id, c.c.next_seq, (c.c.next_seq - 1).label("last_seq"), c.c.fork_chains, c.c.fork_seqs)
        .where(_this)
        .cte("seen")
        .prefix_with("materialized", dialect="postgresql")
    )
    if takes:
        held = (
            sa.update(c)
            .where(_this, IS_FREE)
            .values(running_id=_p("holder"), lease_until=_soon)
            .returning(c.c.next_seq)
            .cte("held")
        )
    else:
        held = sa.select(seen.c.next_seq).cte("held")
    ours = (
        sa.select(seen.c.id, seen.c.last_seq, seen.c.fork_chains, seen.c.fork_seqs)
        .select_from(seen.join(held, sa.true()))
        .cte("ours")
    )
    own = sa.select(ours.c.id.label("chain"), ours.c.last_seq.label("upto"))
    line = lineage.lines(own, ours)
    if is_cut:
        line = lineage.cut(line, _floor(seen))
    turn = lineage.turns_of(line)
    return Statement(
        sa.select(
            seen.c.next_seq, seen.c.fork_chains, seen.c.fork_seqs, held.c.next_seq.label("held_seq"), turn
        ).select_from(
            seen.outerjoin(held, sa.true()).outerjoin(line.join(turn, sa.true()), sa.true())
        )
    )  # fmt: skip


def _floor(seen: sa.CTE) -> sa.ColumnElement[int]:
    """Up to which estimate nothing is needed; a conversation's first turn is on its own line."""
    # A column and no sum: beneath row-level security only a plain comparison is an index's.
    last = lineage.tip_tokens(seen.c.id, seen.c.last_seq).correlate(seen)
    total = sa.select(last.scalar_subquery()).select_from(seen).scalar_subquery()
    return total - _p("budget", type_=sa.Integer)


_reads = {
    (takes, is_cut): _read(takes=takes, is_cut=is_cut) for takes in (True, False) for is_cut in (True, False)
}

_held = (
    sa.func.unnest(
        _p("tenants", type_=pg.ARRAY(sa.BigInteger)),
        _p("ids", type_=pg.ARRAY(pg.UUID)),
        _p("holders", type_=pg.ARRAY(pg.UUID)),
    )
    .table_valued(
        sa.column("tenant_id", sa.BigInteger), sa.column("id", pg.UUID), sa.column("holder", pg.UUID)
    )
    .render_derived("held")
)
_ours = (
    sa.select(c.c.tenant_id, c.c.id)
    .join_from(
        c,
        _held,
        sa.and_(c.c.tenant_id == _held.c.tenant_id, c.c.id == _held.c.id, c.c.running_id == _held.c.holder),
    )
    # Of two renewals under way at once, each would else wait for the other.
    .order_by(c.c.tenant_id, c.c.id)
    .with_for_update(of=c)
    .cte("ours")
)
_renew = Statement(
    sa.update(c)
    .where(c.c.tenant_id == _ours.c.tenant_id, c.c.id == _ours.c.id)
    .values(lease_until=sa.func.greatest(c.c.lease_until, _soon))
    .returning(c.c.tenant_id, c.c.id, c.c.running_id)
)
_held_by_it = sa.and_(IS_OURS, c.c.id == _p("id"))
_release = Statement(sa.update(c).where(_held_by_it).values(**FREE))
_give_back = Statement(sa.update(c).where(_held_by_it, c.c.lease_until < _until_its_end).values(**FREE))
_promise = Statement(sa.update(c).where(IS_OURS, _this).values(lease_until=_until_its_end).returning(c.c.id))


async def take(tx: Tx, lock: Lock, *, lease_seconds: float, budget: int | None) -> Reading | None:
    """Take the lock if it is free, and read the items, in one round trip; None if there is no such
    conversation, which is also what another tenant's is (law L7).

    Args:
        budget: as many tokens, by our estimate, are wanted; older turns may be left unread.
    """
    rows = await tx.fetch(
        _reads[True, budget is not None],
        id=lock.conversation_id,
        holder=lock.response_id,
        lease=timedelta(seconds=lease_seconds),
        budget=budget,
    )
    if rows and rows[0]["held_seq"] not in (None, rows[0]["next_seq"]):
        # Whoever had the lock appended while this statement waited for the row: that was not seen yet.
        return await read(tx, lock.conversation_id, budget=budget)
    return _reading(lock.conversation_id, rows)


async def read(tx: ReadTx, conversation_id: UUID, *, budget: int | None) -> Reading | None:
    """Read the items, whoever holds the lock."""
    rows = await tx.fetch(_reads[False, budget is not None], id=conversation_id, budget=budget)
    return _reading(conversation_id, rows)


def _reading(conversation_id: UUID, rows: Sequence[Row]) -> Reading | None:
    if not rows:
        return None
    first = rows[0]
    here = Place(conversation_id, first["next_seq"] - 1, lineage.forks(first))
    turns = [row for row in rows if row["seq"] is not None]
    return Reading(first["held_seq"] is not None, lineage.gather(None, turns, here))


async def renew(tx: SystemTx, locks: Sequence[Lock], *, lease_seconds: float) -> set[Lock]:
    """Prolong the leases; the locks among them that still stand. The rest was lost."""
    rows = await tx.fetch(
        _renew,
        tenants=[lock.tenant_id for lock in locks],
        ids=[lock.conversation_id for lock in locks],
        holders=[lock.response_id for lock in locks],
        lease=timedelta(seconds=lease_seconds),
    )
    return {Lock(row["tenant_id"], UUID(int=row["id"].int), UUID(int=row["running_id"].int)) for row in rows}


async def promise(tx: Tx, conversation_id: UUID, holder: UUID) -> bool:
    """Keep a lock until its response ends, however long it waits; False if it was lost before."""
    return await tx.fetch_one(_promise, id=conversation_id, holder=holder) is not None


async def give_back(tx: Tx, conversation_id: UUID, holder: UUID) -> None:
    """Give back the lock of a response that is not stored. Once it is queued, which a caller whose
    connection broke at the commit cannot know, the lock is bound to its end: nothing happens then.
    """
    await tx.fetch(_give_back, id=conversation_id, holder=holder)


async def release(tx: Tx, conversation_id: UUID, holder: UUID) -> None:
    """Give the lock back at its response's end, if that has it."""
    await tx.fetch(_release, id=conversation_id, holder=holder)
