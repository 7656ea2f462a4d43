"""What an export asks beside its pages: the moment that bounds it, and how each response ended."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from app.domain.audit import Head
from app.domain.export import Ending
from app.store.db import ReadTx, SystemTx
from app.store.statements import ITEMS, Statement
from app.store.tables import audit_checkpoints as p
from app.store.tables import audit_outbox as o
from app.store.tables import responses as t

_p = sa.bindparam

_now = Statement(sa.select(sa.func.clock_timestamp().label("now")))
_activity = sa.table(
    "pg_stat_activity",
    sa.column("pid", sa.Integer),
    sa.column("datname", sa.Text),
    sa.column("application_name", sa.Text),
    sa.column("xact_start", sa.TIMESTAMP(timezone=True)),
)
_is_open = Statement(
    sa.select(
        sa.exists(
            sa.select(_activity.c.pid).where(
                _activity.c.datname == sa.func.current_database(),
                _activity.c.application_name == sa.func.current_setting("application_name"),
                _activity.c.pid != sa.func.pg_backend_pid(),
                _activity.c.xact_start < _p("before", type_=sa.TIMESTAMP(timezone=True)),
            )
        ).label("found")
    )
)
_last = Statement(
    sa.select(t.c.id)
    .where(t.c.tenant_id == _p("tenant_id"), t.c.mode < ITEMS)
    .order_by(t.c.id.desc())
    .limit(sa.literal_column("1"))
)
_NONE = (1 << 63) - 1
_waiting = Statement(
    sa.select(
        sa.func.coalesce(sa.func.min(o.c.seq), _p("none", type_=sa.BigInteger)).label("oldest"),
        sa.func.coalesce(sa.func.max(o.c.seq), sa.literal_column("0")).label("newest"),
    ).where(o.c.tenant_id == _p("tenant_id"))
)
_endings = Statement(
    sa.select(t.c.id, t.c.finished_at, t.c.attempt).where(
        t.c.tenant_id == _p("tenant_id"), t.c.id == sa.func.any(_p("ids", type_=pg.ARRAY(pg.UUID)))
    )
)
_checkpoint_before = Statement(
    sa.select(p.c.seq, p.c.hash)
    .where(
        p.c.tenant_id == _p("tenant_id"),
        p.c.at < _p("at", type_=sa.TIMESTAMP(timezone=True)),
    )
    .order_by(p.c.seq.desc())
    .limit(sa.literal_column("1"))
)


@dataclass(frozen=True, slots=True)
class Waiting:
    """Between which places of the outbox notes wait to be settled. Without any, the oldest is beyond all."""

    oldest: int
    newest: int


async def now(tx: SystemTx) -> datetime:
    """The time by Postgres's clock, at this moment and not when the transaction began."""
    row = await tx.fetch_one(_now)
    if row is None:
        raise LookupError("clock_timestamp")
    return row["now"]


async def is_any_open(tx: SystemTx, *, before: datetime) -> bool:
    """Whether a transaction of ours that began before this still runs: what it does is dated before, too."""
    row = await tx.fetch_one(_is_open, before=before)
    return bool(row and row["found"])


async def last_id(tx: ReadTx) -> UUID | None:
    """The newest response there is, whatever has become of it."""
    row = await tx.fetch_one(_last)
    return UUID(int=row["id"].int) if row else None


async def waiting(tx: ReadTx) -> Waiting:
    """What of this tenant's is noted and not settled yet."""
    row = await tx.fetch_one(_waiting, none=_NONE)
    return Waiting(row["oldest"], row["newest"]) if row else Waiting(_NONE, 0)


async def endings(tx: ReadTx, response_ids: Collection[UUID]) -> dict[UUID, Ending]:
    """How each of these ended."""
    rows = await tx.fetch(_endings, ids=list(response_ids))
    return {UUID(int=row["id"].int): Ending(row["finished_at"], row["attempt"]) for row in rows}


async def checkpoint_before(tx: ReadTx, at: datetime) -> Head | None:
    """The last checkpoint that was made before this; it is looked for from the newest back."""
    row = await tx.fetch_one(_checkpoint_before, at=at)
    return Head(row["seq"], row["hash"]) if row else None
