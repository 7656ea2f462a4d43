"""The audit trail as it is stored: appended to under the lock of its head, and read in its order.

Records are written here alone, and never changed: a trigger refuses that to the server's own role too.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from app.domain.audit import BEGINNING, Action, Checkpoint, Head, Note, Record
from app.store.db import ReadTx, Row, SystemTx, Tx
from app.store.statements import Statement
from app.store.tables import audit_checkpoints as p
from app.store.tables import audit_heads as h
from app.store.tables import audit_outbox as o
from app.store.tables import audit_records as r

_p = sa.bindparam
_columns = (
    r.c.seq,
    r.c.at,
    r.c.action,
    r.c.key_id,
    r.c.subject,
    r.c.digest,
    r.c.data,
    r.c.previous_hash,
    r.c.hash,
)

_make_head = pg.insert(h).values(
    tenant_id=_p("tenant_id"), seq=0, checkpoint_seq=0, checkpoint_at=sa.func.now(), hash=BEGINNING
)
# To write what is there already locks it, and is an answer: one statement for the first time and all others.
_lock_head = Statement(
    _make_head.on_conflict_do_update(
        index_elements=[h.c.tenant_id], set_={"tenant_id": _make_head.excluded.tenant_id}
    ).returning(
        h.c.seq,
        h.c.hash,
        h.c.checkpoint_seq,
        (h.c.checkpoint_at < sa.func.now() - _p("age", type_=sa.Interval)).label("is_old"),
        sa.func.now().label("now"),
    )
)
_set_head = Statement(
    sa.update(h).where(h.c.tenant_id == _p("tenant_id")).values(seq=_p("seq"), hash=_p("hash"))
)
_head = Statement(sa.select(h.c.seq, h.c.hash).where(h.c.tenant_id == _p("tenant_id")))


def _last(table: sa.Table, column: str) -> Any:
    """What the last row of a trail's table says, by its primary key."""
    mine = sa.select(table.c[column]).where(table.c.tenant_id == _p("tenant_id", type_=sa.BigInteger))
    return mine.order_by(table.c.seq.desc()).limit(sa.literal_column("1")).scalar_subquery()


# One statement, so that nothing is appended between what the head says and what there is. Times as text:
# Postgres has some that Python cannot hold.
_state = Statement(
    sa.select(
        *(sa.func.max(h.c[name]).label(name) for name in ("seq", "checkpoint_seq")),
        sa.func.max(sa.cast(h.c.checkpoint_at, sa.Text)).label("checkpoint_at"),
        sa.func.max(sa.func.encode(h.c.hash, sa.literal_column("'hex'"))).label("hash"),
        _last(r, "seq").label("last"),
        _last(p, "seq").label("last_checkpoint"),
        sa.cast(_last(p, "at"), sa.Text).label("last_checkpoint_at"),
    ).where(h.c.tenant_id == _p("tenant_id"))
)
_oldest = sa.select(o.c.seq).where(o.c.tenant_id == _p("tenant_id")).order_by(o.c.seq).limit(_p("limit"))
_take = Statement(
    sa.delete(o)
    .where(o.c.tenant_id == _p("tenant_id"), o.c.seq == sa.func.any(sa.func.array(_oldest.scalar_subquery())))
    .returning(o.c.seq, o.c.at, o.c.action, o.c.key_id, o.c.subject, o.c.digest, o.c.data)
)
_is_pending = Statement(
    sa.select(sa.exists(sa.select(o.c.seq).where(o.c.tenant_id == _p("tenant_id"))).label("found"))
)
_next_pending = Statement(
    sa.select(o.c.tenant_id).where(o.c.tenant_id > _p("after")).order_by(o.c.tenant_id, o.c.seq).limit(1)
)
_ARRAYS: tuple[tuple[str, Any], ...] = (
    ("seq", sa.BigInteger), ("at", sa.TIMESTAMP(timezone=True)), ("action", sa.SmallInteger),
    ("key_id", pg.UUID), ("subject", pg.UUID), ("digest", sa.LargeBinary), ("data", sa.Text),
    ("previous_hash", sa.LargeBinary), ("hash", sa.LargeBinary),
)  # fmt: skip
_new = (
    sa.func.unnest(*(_p(f"all_{name}", type_=pg.ARRAY(type_)) for name, type_ in _ARRAYS))
    .table_valued(*(sa.column(name, type_) for name, type_ in _ARRAYS))
    .render_derived("new")
)
_append = Statement(
    sa.insert(r).from_select(
        ["tenant_id", *(name for name, _ in _ARRAYS)],
        sa.select(_p("tenant_id", type_=sa.BigInteger), *_new.c),
    )
)
_checkpoint = Statement(
    sa.insert(p).values(
        {name: _p(name) for name in ("tenant_id", "seq", "at", "hash", "public_key", "signature")}
    )
)
_note_checkpoint = Statement(
    sa.update(h)
    .where(h.c.tenant_id == _p("tenant_id"))
    .values(checkpoint_seq=_p("seq"), checkpoint_at=_p("at"))
)
_unsigned = Statement(
    sa.select(h.c.tenant_id).where(
        h.c.seq > h.c.checkpoint_seq, h.c.checkpoint_at < sa.func.now() - _p("age", type_=sa.Interval)
    )
)
# Trails that have not gone on since a checkpoint for which none of these keys vouches.
_note_signing = Statement(
    sa.insert(o).from_select(
        ["tenant_id", "action", "data"],
        sa.select(h.c.tenant_id, sa.literal_column(str(int(Action.AUDIT_SIGNED))), _p("data", type_=sa.Text))
        .select_from(h.outerjoin(p, sa.and_(p.c.tenant_id == h.c.tenant_id, p.c.seq == h.c.checkpoint_seq)))
        .where(
            h.c.checkpoint_seq > 0,
            h.c.checkpoint_seq == h.c.seq,
            sa.func.coalesce(p.c.public_key != sa.func.all(_p("keys", type_=pg.ARRAY(sa.LargeBinary))), True),
            ~sa.exists().where(o.c.tenant_id == h.c.tenant_id),
        ),
    )
)
_trails = Statement(
    sa.union(
        sa.select(h.c.tenant_id), sa.select(r.c.tenant_id).distinct(), sa.select(p.c.tenant_id).distinct()
    ).order_by("tenant_id")
)
_checkpoints = Statement(
    sa.select(p.c.seq, p.c.at, p.c.hash, p.c.public_key, p.c.signature)
    .where(p.c.tenant_id == _p("tenant_id"), p.c.seq > _p("after"), p.c.seq <= _p("upto"))
    .order_by(p.c.seq)
    .limit(_p("limit"))
)
_count = Statement(sa.select(sa.func.count().label("count")).where(o.c.tenant_id == _p("tenant_id")))


def _last_of(table: sa.Table) -> Statement:
    """The newest record, or note, of an action whose data begins like this."""
    mine = sa.select(table.c.data).where(
        table.c.tenant_id == _p("tenant_id"),
        table.c.action == _p("action"),
        sa.func.starts_with(table.c.data, _p("beginning", type_=sa.Text)),
    )
    return Statement(mine.order_by(table.c.seq.desc()).limit(sa.literal_column("1")))


_last_noted, _last_recorded = _last_of(o), _last_of(r)


def _page(*, newest_first: bool, by: str | None) -> Statement:
    """A page after a cursor, by the primary key, or by the index of the one filter."""
    beyond = r.c.seq < _p("after") if newest_first else r.c.seq > _p("after")
    query = sa.select(*_columns).where(r.c.tenant_id == _p("tenant_id"), beyond)
    if by:
        # `key_id` would be that of whoever asks.
        query = query.where(r.c[by] == _p("value", type_=r.c[by].type))
    return Statement(query.order_by(r.c.seq.desc() if newest_first else r.c.seq).limit(_p("limit")))


FILTERS = ("action", "subject", "key_id")
"""What records can be asked for by, one at a time: each has an index in the order of the trail."""

_pages = {
    (newest, by): _page(newest_first=newest, by=by) for newest in (True, False) for by in (None, *FILTERS)
}


@dataclass(frozen=True, slots=True)
class LockedHead:
    """A head that nobody else may move, and whether a checkpoint is due."""

    head: Head
    unsigned: int
    """Records since the last checkpoint."""
    is_old: bool
    """Whether that was long ago."""
    now: datetime
    """When this transaction began."""


@dataclass(frozen=True, slots=True)
class State:
    """What a trail's head says at one moment, and what there is."""

    head: Head
    checkpoint: tuple[int, str | None]
    """Place and time of the last checkpoint, as the head says; the time to be compared, and not read."""
    last: int
    """The last record that there is; 0 for none, as below."""
    last_checkpoint: tuple[int, str | None]


async def lock_head(tx: Tx, *, age: timedelta = timedelta()) -> LockedHead:
    """The end of this tenant's trail, kept from moving until the transaction ends.

    Args:
        age: how long a checkpoint is young.
    """
    row = await tx.fetch_one(_lock_head, age=age)
    if row is None:
        raise LookupError(tx.tenant_id)
    unsigned = row["seq"] - row["checkpoint_seq"]
    return LockedHead(Head(row["seq"], row["hash"]), unsigned, row["is_old"], row["now"])


async def take(tx: Tx, *, limit: int) -> list[Note]:
    """The oldest notes of the outbox, which leave it with this transaction. The head has to be locked."""
    rows = await tx.fetch(_take, limit=limit)
    return [_note(row) for row in sorted(rows, key=lambda row: row["seq"])]


async def append(tx: Tx, records: Sequence[Record]) -> None:
    """Append records behind the locked head, and move it."""
    notes = [record.note for record in records]
    await tx.fetch(
        _append,
        all_seq=[record.seq for record in records],
        all_at=[note.at for note in notes],
        all_action=[int(note.action) for note in notes],
        all_key_id=[note.key_id for note in notes],
        all_subject=[note.subject for note in notes],
        all_digest=[note.digest for note in notes],
        all_data=[note.data for note in notes],
        all_previous_hash=[record.previous_hash for record in records],
        all_hash=[record.hash for record in records],
    )
    await tx.fetch(_set_head, seq=records[-1].seq, hash=records[-1].hash)


async def checkpoint(tx: Tx, what: Checkpoint) -> None:
    """Write down what the locked head is, and who vouches for it."""
    values = {"seq": what.seq, "at": what.at}
    await tx.fetch(
        _checkpoint, **values, hash=what.hash, public_key=what.public_key, signature=what.signature
    )
    await tx.fetch(_note_checkpoint, **values)


async def unsigned(tx: SystemTx, *, age: timedelta) -> list[int]:
    """Tenants whose trails have gone on since a checkpoint that is older than this."""
    return [row["tenant_id"] for row in await tx.fetch(_unsigned, age=age)]


async def note_signing(tx: SystemTx, keys: Collection[bytes], data: str) -> None:
    """Note in every trail at rest, for which none of these keys vouches, that one does from here on."""
    await tx.fetch(_note_signing, keys=list(keys), data=data)


async def trails(tx: SystemTx) -> list[int]:
    """The tenants that have a trail; `SERVER` among them."""
    return [row["tenant_id"] for row in await tx.fetch(_trails)]


async def next_pending(tx: SystemTx, after: int) -> int | None:
    """The next tenant with anything in the outbox."""
    row = await tx.fetch_one(_next_pending, after=after)
    return row["tenant_id"] if row else None


async def is_pending(tx: ReadTx) -> bool:
    """Whether this tenant has anything in the outbox."""
    row = await tx.fetch_one(_is_pending)
    return bool(row and row["found"])


async def pending(tx: ReadTx) -> int:
    """How much this tenant has in the outbox."""
    row = await tx.fetch_one(_count)
    return row["count"] if row else 0


async def head(tx: ReadTx) -> Head:
    """Where the trail ends, as its own row says."""
    row = await tx.fetch_one(_head)
    return Head(row["seq"], row["hash"]) if row else Head()


async def state(tx: ReadTx) -> State:
    """What the head says, beside what there is; all of it of one moment."""
    row = await tx.fetch_one(_state)
    if row is None:
        raise LookupError(tx.tenant_id)
    said = Head(row["seq"] or 0, bytes.fromhex(row["hash"])) if row["hash"] else Head()
    return State(
        said,
        (row["checkpoint_seq"] or 0, row["checkpoint_at"]),
        row["last"] or 0,
        (row["last_checkpoint"] or 0, row["last_checkpoint_at"]),
    )


async def last_data(tx: ReadTx, action: Action, beginning: str) -> str | None:
    """The data of what was last noted of this kind, if it begins like this; the head has to be locked, so
    that nothing is moved from the outbox into the trail meanwhile.
    """
    row = None
    for statement in (_last_noted, _last_recorded):
        row = row or await tx.fetch_one(statement, action=action, beginning=beginning)
    return row["data"] if row else None


async def page(
    tx: ReadTx,
    *,
    limit: int,
    newest_first: bool,
    after: int | None = None,
    by: str | None = None,
    value: int | UUID | None = None,
) -> list[Record]:
    """Up to `limit` records beyond a place, all of them or those that one of `FILTERS` picks."""
    start = after if after is not None else (1 << 62 if newest_first else 0)
    rows = await tx.fetch(_pages[newest_first, by], after=start, limit=limit, value=value)
    return [Record(tx.tenant_id, row["seq"], _note(row), row["previous_hash"], row["hash"]) for row in rows]


async def checkpoints(tx: ReadTx, *, after: int, limit: int, upto: int = 1 << 62) -> list[Checkpoint]:
    """Checkpoints beyond a place, and up to another, oldest first."""
    rows = await tx.fetch(_checkpoints, after=after, upto=upto, limit=limit)
    return [
        Checkpoint(row["seq"], row["at"], row["hash"], row["public_key"], row["signature"]) for row in rows
    ]


def _note(row: Row) -> Note:
    return Note(
        at=row["at"],
        action=row["action"],
        key_id=row["key_id"] and UUID(int=row["key_id"].int),
        subject=row["subject"] and UUID(int=row["subject"].int),
        digest=row["digest"],
        data=row["data"],
    )
