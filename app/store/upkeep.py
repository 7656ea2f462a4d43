"""What the reaper looks after beside leases: results that have expired, and responses that wait."""

from datetime import timedelta

import sqlalchemy as sa

from app.store.db import SystemTx
from app.store.statements import QUEUED, Statement
from app.store.tables import response_attempts as a
from app.store.tables import response_events as e
from app.store.tables import responses as t

_p = sa.bindparam

FORGOTTEN_AT_ONCE = 1000
"""Expired results that one round removes. What is left waits for the next."""

_waiting = Statement(
    sa.select(sa.func.count().label("count")).select_from(
        sa.select(sa.literal(1))
        .where(t.c.status == QUEUED, t.c.queued_at <= sa.func.now() - _p("wait", type_=sa.Interval))
        .limit(_p("limit"))
        .subquery()
    )
)


def _forget() -> Statement:
    """Remove expired results with their attempts and events; by ix_responses__expiry.

    By their places, and not so many at once: the planner, who does not see how few they are in the end,
    would rather read all attempts and all events than look for theirs.
    """
    ctid = sa.literal_column("responses.ctid")
    expired = (
        sa.select(ctid)
        .select_from(t)
        .where(t.c.expires_at < sa.func.now())
        .order_by(t.c.expires_at)
        .limit(sa.literal_column(str(FORGOTTEN_AT_ONCE)))
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    gone = (
        sa.delete(t)
        .where(ctid == sa.func.any(sa.func.array(expired)))
        .returning(t.c.tenant_id, t.c.id)
        .cte("gone")
    )
    theirs = [
        sa.delete(each)
        .where(each.c.tenant_id == gone.c.tenant_id, each.c.response_id == gone.c.id)
        .cte(f"gone_{each.name}")
        for each in (a, e)
    ]
    return Statement(sa.select(gone.c.id).add_cte(*theirs))


_forget_ephemeral = _forget()


async def forget_ephemeral(tx: SystemTx) -> None:
    """Remove results that were only kept for polling. Nobody was ever chained on them."""
    await tx.fetch(_forget_ephemeral)


async def count_waiting(tx: SystemTx, *, older_than_seconds: float, limit: int) -> int:
    """How many responses have been queued for that long; counted no further than `limit`."""
    row = await tx.fetch_one(_waiting, wait=timedelta(seconds=older_than_seconds), limit=limit)
    return row["count"] if row else 0
