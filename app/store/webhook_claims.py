"""Whose delivery is next: tenants take turns, and none has more under way at once than is its share.

A process says what it has under way already, and beyond whom to begin. Tenants are found by a loose scan of
ix_webhook_deliveries__queue; of each, at most so many of each endpoint are looked at. So a claim costs what
there are tenants with anything queued and endpoints of theirs, however much is queued for each
(docs/decisions/0028).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from app.domain.webhooks import DeliveryClaim, DeliveryJob, Event, Standing, State
from app.store.db import Row, SystemTx
from app.store.statements import Statement
from app.store.webhook_endpoints import sealed_of, signing
from app.store.webhook_tables import webhook_attempts as a
from app.store.webhook_tables import webhook_deliveries as d
from app.store.webhook_tables import webhook_endpoints as e

_p = sa.bindparam
_ONE = sa.literal_column("1", sa.Integer)
_PENDING, _FAILED = (
    sa.literal_column(str(int(state)), sa.SmallInteger) for state in (State.PENDING, State.FAILED)
)
_last_tenant = _p("last_tenant_id", type_=sa.BigInteger)
_soon = sa.func.now() + _p("lease", type_=sa.Interval)


def _counts(name: str, kind: Any) -> Any:
    """Pairs that came as two arrays: of what, and how many are under way."""
    return (
        sa.func.unnest(
            _p(f"{name}_ids", type_=pg.ARRAY(kind)), _p(f"{name}_counts", type_=pg.ARRAY(sa.Integer))
        )
        .table_valued(sa.column("id", kind), sa.column("count", sa.Integer))
        .render_derived(f"busy_{name}")
    )


def _tenant_after(tenant_id: sa.ColumnElement[int], until: sa.ColumnElement[int] | None) -> Any:
    """The next tenant with anything queued, or null: one look into the index."""
    queued = d.alias()
    query = sa.select(queued.c.tenant_id).where(queued.c.due_at.is_not(None), queued.c.tenant_id > tenant_id)
    if until is not None:
        query = query.where(queued.c.tenant_id <= until)
    order = (queued.c.tenant_id, queued.c.endpoint_id, queued.c.due_at)
    return query.order_by(*order).limit(_ONE).scalar_subquery()


def _lap(name: str, after: sa.ColumnElement[int], until: sa.ColumnElement[int] | None = None) -> sa.CTE:
    """Tenants with anything queued, in order, then null."""
    lap = sa.select(_tenant_after(after, until).label("tenant_id")).cte(name, recursive=True)
    return lap.union_all(sa.select(_tenant_after(lap.c.tenant_id, until)).where(lap.c.tenant_id.is_not(None)))


def _room(most: str, busy_count: Any) -> Any:
    return sa.func.greatest(0, _p(most, type_=sa.Integer) - sa.func.coalesce(busy_count, 0))


def _due_of(tenant_id: sa.ColumnElement[int]) -> Any:
    """What of a tenant's may be sent now, the longest due first, locked; what others hold is passed by."""
    tenants, endpoints, queued = _counts("tenant", sa.BigInteger), _counts("endpoint", pg.UUID), d.alias()
    first = (
        sa.select(queued.c.tenant_id, queued.c.endpoint_id, queued.c.event_id, queued.c.due_at)
        .where(
            queued.c.tenant_id == e.c.tenant_id,
            queued.c.endpoint_id == e.c.id,
            queued.c.due_at <= sa.func.now(),
        )
        .order_by(queued.c.due_at)
        .limit(_room("most_of_endpoint", endpoints.c.count))
        .with_for_update(skip_locked=True)
        .lateral()
    )
    busy = sa.select(tenants.c.count).where(tenants.c.id == tenant_id).correlate_except(tenants)
    return (
        sa.select(first.c.tenant_id, first.c.endpoint_id, first.c.event_id)
        .select_from(e.outerjoin(endpoints, endpoints.c.id == e.c.id).join(first, sa.true()))
        .where(
            e.c.tenant_id == tenant_id,
            e.c.standing == _p("standing", type_=sa.SmallInteger),
            sa.func.coalesce(e.c.rests_until <= sa.func.now(), True),
        )
        .order_by(first.c.due_at)
        .limit(_room("most_of_tenant", busy.scalar_subquery()))
        .lateral()
    )


def _next() -> sa.CTE:
    """Everyone's once: of those beyond whom was served last, then of those before, and of that one."""
    found = list[Any]()
    laps = _lap("later", _last_tenant), _lap("earlier", sa.literal_column("0", sa.BigInteger), _last_tenant)
    for lap in laps:
        due = _due_of(lap.c.tenant_id)
        found.append(
            sa.select(due.c.tenant_id, due.c.endpoint_id, due.c.event_id).select_from(
                lap.join(due, sa.true())
            )
        )
    either = sa.union_all(*found).subquery()
    return sa.select(either).limit(_p("limit", type_=sa.Integer)).cte("next")


def _claimed(following: sa.CTE) -> sa.CTE:
    """These, won or given up."""
    # Whoever ends an attempt gives up in time. This is for those that nobody ends, as their workers die.
    is_over = sa.and_(d.c.tries > 0, d.c.queued_at < sa.func.now() - _p("give_up", type_=sa.Interval))
    one = sa.case((is_over, 0), else_=1)
    return (
        sa.update(d)
        .where(
            d.c.tenant_id == following.c.tenant_id,
            d.c.endpoint_id == following.c.endpoint_id,
            d.c.event_id == following.c.event_id,
        )
        .values(
            attempt=d.c.attempt + one,
            tries=d.c.tries + one,
            state=sa.case((is_over, _FAILED), else_=_PENDING),
            due_at=sa.case((is_over, None), else_=_soon),
            ended_at=sa.case((is_over, sa.func.now())),
        )
        .returning(
            d.c.tenant_id, d.c.endpoint_id, d.c.event_id, d.c.attempt, d.c.tries, d.c.event_type,
            d.c.created_at, d.c.queued_at, d.c.state,
        )
        .cte("claimed")
    )  # fmt: skip


def _claim_next() -> Statement:
    claimed = _claimed(_next())
    key = ("tenant_id", "endpoint_id", "event_id")
    is_won = claimed.c.state == _PENDING
    won = sa.select(*(claimed.c[name] for name in key), claimed.c.attempt).where(is_won)
    noted = pg.insert(a).from_select([*key, "attempt"], won).cte("noted")
    # Whoever had it before did not come back.
    lost = (
        sa.update(a)
        .where(
            *(a.c[name] == claimed.c[name] for name in key),
            a.c.attempt == claimed.c.attempt - sa.case((is_won, 1), else_=0),
            a.c.ended_at.is_(None),
        )
        .values(ended_at=sa.func.now(), reason="lost")
        .cte("lost")
    )
    waited = sa.func.extract("epoch", sa.func.now() - claimed.c.queued_at).label("waited_seconds")
    return Statement(
        sa.select(claimed, waited, e.c.url, e.c.standing, *signing(e))
        .join_from(claimed, e, sa.and_(e.c.tenant_id == claimed.c.tenant_id, e.c.id == claimed.c.endpoint_id))
        .add_cte(noted, lost)
    )


_claim = _claim_next()
_due = Statement(
    sa.select(sa.func.count().label("count")).select_from(
        sa.select(sa.literal(1)).where(d.c.due_at <= sa.func.now()).limit(_p("limit")).subquery()
    )
)


@dataclass(frozen=True, slots=True)
class Room:
    """What a process may take on of endpoints of one standing, beside what it has under way."""

    standing: Standing
    limit: int
    most_of_tenant: int
    most_of_endpoint: int
    by_tenant: Mapping[int, int]
    by_endpoint: Mapping[UUID, int]


async def claim(
    tx: SystemTx, room: Room, *, lease_seconds: float, give_up_seconds: float, last_tenant_id: int = 0
) -> list[DeliveryJob]:
    """Win the right to try deliveries that are due. What has been tried and waited longer than
    `give_up_seconds` has failed instead.

    One statement claims, so of two workers one wins, and rows in others' hands are passed by. The attempt
    number fences what is written later; once the lease is over, anyone may claim the delivery again.
    """
    while rows := await _taken(tx, room, lease_seconds, give_up_seconds, last_tenant_id):
        if jobs := _jobs([row for row in rows if row["state"] == State.PENDING]):
            return jobs
    return []


async def _taken(
    tx: SystemTx, room: Room, lease_seconds: float, give_up_seconds: float, last_tenant_id: int
) -> Sequence[Row]:
    return await tx.fetch(
        _claim,
        limit=room.limit,
        most_of_tenant=room.most_of_tenant,
        most_of_endpoint=room.most_of_endpoint,
        tenant_ids=list(room.by_tenant),
        tenant_counts=list(room.by_tenant.values()),
        endpoint_ids=list(room.by_endpoint),
        endpoint_counts=list(room.by_endpoint.values()),
        standing=room.standing,
        lease=timedelta(seconds=lease_seconds),
        give_up=timedelta(seconds=give_up_seconds),
        last_tenant_id=last_tenant_id,
    )


async def count_due(tx: SystemTx, *, limit: int) -> int:
    """How many deliveries could be tried now; counted no further than `limit`."""
    row = await tx.fetch_one(_due, limit=limit)
    return row["count"] if row else 0


def _jobs(rows: Sequence[Row]) -> list[DeliveryJob]:
    return [
        DeliveryJob(
            claim=DeliveryClaim(
                row["tenant_id"],
                UUID(int=row["endpoint_id"].int),
                UUID(int=row["event_id"].int),
                row["attempt"],
            ),
            event=Event(UUID(int=row["event_id"].int), row["event_type"], int(row["created_at"].timestamp())),
            tries=row["tries"],
            waited_seconds=float(row["waited_seconds"]),
            standing=Standing(row["standing"]),
            url=row["url"],
            sealed=sealed_of(row),
        )
        for row in rows
    ]
