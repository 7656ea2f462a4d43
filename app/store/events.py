"""The journal: the events of background streams, in batches, as they are shown.

A batch is one row of frames. It is stored before anyone sees it (decision 1 of the design), and only
while the attempt that made it is still the one in charge.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from app.domain.jobs import Claim
from app.store.codec import CODEC, compress, decompress
from app.store.db import ReadTx, SystemTx, Tx
from app.store.statements import IN_PROGRESS, Statement
from app.store.tables import response_events as e
from app.store.tables import responses as t

CHANNEL = "holdfast_events"
"""Followers listen here; the payload is the response's id."""

CANCELLED = "holdfast_cancelled"
"""Workers listen here for responses whose run has lost its purpose."""

PRUNED_AT_ONCE = 20_000
"""Events by which one round of pruning finds journals that may go. What is left waits for the next."""

_p = sa.bindparam


_batch = (
    sa.func.unnest(
        _p("tenants", type_=pg.ARRAY(sa.BigInteger)),
        _p("ids", type_=pg.ARRAY(pg.UUID)),
        _p("attempts", type_=pg.ARRAY(sa.SmallInteger)),
        _p("last_seqs", type_=pg.ARRAY(sa.Integer)),
        _p("packed", type_=pg.ARRAY(sa.LargeBinary)),
    )
    .table_valued(
        sa.column("tenant_id", sa.BigInteger),
        sa.column("id", pg.UUID),
        sa.column("attempt", sa.SmallInteger),
        sa.column("last_seq", sa.Integer),
        sa.column("data", sa.LargeBinary),
    )
    .render_derived("batch")
)


def _append_batches() -> Statement:
    """Store the batches of all streams that still own their response, and wake their followers.

    The rows are share-locked, so that a cancel or a reaper comes wholly before a batch or wholly after;
    in the order in which renewals lock them, or each would wait for the other.
    """
    held = (
        sa.select(t.c.tenant_id, t.c.id, t.c.attempt, _batch.c.last_seq, _batch.c.data)
        .join_from(
            t,
            _batch,
            sa.and_(
                t.c.tenant_id == _batch.c.tenant_id,
                t.c.id == _batch.c.id,
                t.c.attempt == _batch.c.attempt,
                t.c.status == IN_PROGRESS,
            ),
        )
        .order_by(t.c.tenant_id, t.c.id)
        .with_for_update(read=True, of=t)
        .cte("held")
    )
    stored = (
        pg.insert(e)
        .from_select(
            ["tenant_id", "response_id", "last_seq", "codec", "data"],
            sa.select(held.c.tenant_id, held.c.id, held.c.last_seq, sa.literal(CODEC), held.c.data),
        )
        .on_conflict_do_nothing()
        .returning(e.c.response_id)
        .cte("stored")
    )
    told = sa.func.pg_notify(CHANNEL, sa.cast(held.c.id, sa.Text))
    return Statement(sa.select(held.c.tenant_id, held.c.id, held.c.attempt, told).add_cte(stored))


_append = _append_batches()
_first = Statement(
    pg.insert(e).values(
        {name: _p(name) for name in ("tenant_id", "response_id", "last_seq", "codec", "data")}
    )
)
_after = Statement(
    sa.select(e.c.last_seq, e.c.codec, e.c.data)
    .where(e.c.tenant_id == _p("tenant_id"), e.c.response_id == _p("id"), e.c.last_seq > _p("after"))
    .order_by(e.c.last_seq)
    .limit(_p("limit"))
)
_last = Statement(
    sa.select(sa.func.max(e.c.last_seq).label("max")).where(
        e.c.tenant_id == _p("tenant_id"), e.c.response_id == _p("id")
    )
)


def _prune_old() -> Statement:
    """Remove the journals that the oldest events belong to, if their responses ended long ago.

    By ix_response_events__created_at, then by primary keys. All events of a response leave together,
    counted from its end: of a half of them nobody could tell that the other half is missing.
    """
    old = sa.func.now() - _p("retention", type_=sa.Interval)
    # A scalar subquery stays a look into the primary key for each event. As `exists` it becomes a join,
    # and the planner, who expects a third of the events to be old, reads all responses for it.
    is_over = (
        sa.select(sa.and_(t.c.finished_at.is_not(None), t.c.finished_at < old))
        .where(t.c.tenant_id == e.c.tenant_id, t.c.id == e.c.response_id)
        .correlate(e)
        .scalar_subquery()
    )
    oldest = (
        sa.select(e.c.tenant_id, e.c.response_id)
        .where(e.c.created_at < old, sa.func.coalesce(is_over, sa.true()))
        .order_by(e.c.created_at)
        .limit(sa.literal_column(str(PRUNED_AT_ONCE)))
        .subquery()
    )
    gone, each = sa.select(oldest).distinct().cte("gone"), e.alias("each")
    # Sorted, so that it is not merged into a join either: one range of the primary key for each journal.
    theirs = (
        sa.select(sa.literal_column("each.ctid").label("ctid"))
        .where(each.c.tenant_id == gone.c.tenant_id, each.c.response_id == gone.c.response_id)
        .order_by(each.c.last_seq)
        .lateral("theirs")
    )
    places = sa.select(theirs.c.ctid).select_from(gone.join(theirs, sa.true()))
    ctid = sa.literal_column("response_events.ctid")
    return Statement(sa.delete(e).where(ctid == sa.func.any(sa.func.array(places.scalar_subquery()))))


_prune = _prune_old()
_notify = Statement(sa.select(sa.func.pg_notify(_p("channel", type_=sa.Text), _p("payload", type_=sa.Text))))


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive frames of one response, ending with `last_seq`."""

    claim: Claim
    last_seq: int
    frames: bytes


async def append(tx: SystemTx, batches: Sequence[Batch]) -> set[Claim]:
    """Store batches of many responses in one statement; the claims among them that still stand.

    Repeating it is harmless: a batch is known by its last sequence number.
    """
    rows = await tx.fetch(
        _append,
        tenants=[batch.claim.tenant_id for batch in batches],
        ids=[batch.claim.response_id for batch in batches],
        attempts=[batch.claim.attempt for batch in batches],
        last_seqs=[batch.last_seq for batch in batches],
        packed=[compress(batch.frames) for batch in batches],
    )
    return {Claim(row["tenant_id"], UUID(int=row["id"].int), row["attempt"]) for row in rows}


async def put(tx: Tx, response_id: UUID, last_seq: int, frames: bytes) -> None:
    """Journal what is said with a change of the row, in the transaction that changes it."""
    await tx.fetch(_first, response_id=response_id, last_seq=last_seq, codec=CODEC, data=compress(frames))


async def read_after(
    tx: ReadTx, response_id: UUID, after: int, *, limit: int = 64
) -> list[tuple[int, bytes]]:
    """Up to `limit` batches that hold events beyond `after`: their last sequence number and their frames."""
    rows = await tx.fetch(_after, id=response_id, after=after, limit=limit)
    return [(row["last_seq"], decompress(row["data"], row["codec"])) for row in rows]


async def read_all(tx: ReadTx, response_id: UUID) -> bytes:
    """Every frame of the journal."""
    pieces, after = list[bytes](), -1
    while batches := await read_after(tx, response_id, after):
        pieces += [frames for _, frames in batches]
        after = batches[-1][0]
    return b"".join(pieces)


async def count(tx: ReadTx, response_id: UUID) -> int:
    """How many events are journalled, which is also the next sequence number."""
    row = await tx.fetch_one(_last, id=response_id)
    return 0 if row is None or row["max"] is None else row["max"] + 1


async def prune(tx: SystemTx, *, retention_seconds: float) -> None:
    """Forget the oldest events of finished responses; they can be said again (`generation.rebuild`)."""
    await tx.fetch(_prune, retention=timedelta(seconds=retention_seconds))


async def notify(tx: SystemTx, channel: str, response_id: UUID) -> None:
    """Wake whoever listens. After the commit of what it tells of: inside, it would serialise commits."""
    await tx.fetch(_notify, channel=channel, payload=str(response_id))
