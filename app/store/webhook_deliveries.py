"""Deliveries of webhooks: what became of each attempt, their log, and replaying. `webhook_claims` claims."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.domain.webhooks import (
    LONGEST_REST_SECONDS,
    MOST_DOUBLINGS,
    RESTS_AFTER,
    Delivery,
    DeliveryClaim,
    Event,
    Outcome,
    State,
)
from app.store.db import ReadTx, Row, SystemTx, Tx
from app.store.statements import Statement
from app.store.webhook_tables import FOR_EVER, is_disabled
from app.store.webhook_tables import webhook_attempts as a
from app.store.webhook_tables import webhook_deliveries as d
from app.store.webhook_tables import webhook_endpoints as e

AT_ONCE = 1000
"""Deliveries that one round removes, or gives up. What is left waits for the next."""

_p = sa.bindparam
_endpoint = _p("endpoint_id", type_=d.c.endpoint_id.type)
_event = _p("event_id", type_=d.c.event_id.type)
_attempt = _p("attempt", type_=sa.Integer)
_this = sa.and_(d.c.tenant_id == _p("tenant_id"), d.c.endpoint_id == _endpoint, d.c.event_id == _event)
_tries = sa.and_(a.c.tenant_id == _p("tenant_id"), a.c.endpoint_id == _endpoint, a.c.event_id == _event)
_PENDING = sa.literal_column(str(int(State.PENDING)), sa.SmallInteger)

_of_event = Statement(sa.select(d).where(_this))
_attempts_of = Statement(sa.select(a).where(_tries).order_by(a.c.attempt))


def _page_statement(*, newest_first: bool) -> Statement:
    cursor = _p("after", type_=d.c.event_id.type)
    beyond = d.c.event_id < cursor if newest_first else d.c.event_id > cursor
    state = _p("state", type_=sa.SmallInteger)
    return Statement(
        sa.select(d)
        .where(
            d.c.tenant_id == _p("tenant_id"),
            d.c.endpoint_id == _endpoint,
            beyond,
            sa.or_(state.is_(None), d.c.state == state),
        )
        .order_by(d.c.event_id.desc() if newest_first else d.c.event_id)
        .limit(_p("limit"))
    )


_pages = {newest_first: _page_statement(newest_first=newest_first) for newest_first in (True, False)}


def _settle_statement() -> Statement:
    """End an attempt. The attempt's own row takes it in any case, the delivery only while it is its turn."""
    state = _p("state", type_=sa.SmallInteger)
    settled = (
        sa.update(d)
        .where(_this, d.c.attempt == _attempt, d.c.state == _PENDING)
        .values(
            state=state,
            due_at=sa.func.now() + _p("pause", type_=sa.Interval),
            ended_at=sa.case((state == _PENDING, None), else_=sa.func.now()),
        )
        .returning(d.c.event_id)
        .cte("settled")
    )
    noted = (
        sa.update(a)
        .where(_tries, a.c.attempt == _attempt)
        .values(
            ended_at=sa.func.now(),
            status_code=_p("status_code", type_=sa.SmallInteger),
            reason=_p("reason", type_=sa.Text),
        )
        .cte("noted")
    )
    return Statement(sa.select(settled.c.event_id).add_cte(noted))


def _judge_statement() -> Statement:
    """What an attempt makes of its endpoint. Not written by one success after another: else every delivery
    would rewrite its endpoint.
    """
    standing, is_good = _p("standing", type_=sa.SmallInteger), _p("is_good", type_=sa.Boolean)
    is_gone = _p("is_gone", type_=sa.Boolean)
    failures = e.c.failures + 1
    doublings = sa.func.least(failures - RESTS_AFTER, MOST_DOUBLINGS)
    rest = _p("rest_seconds", type_=sa.Double) * sa.func.power(sa.literal_column("2.0::float8"), doublings)
    seconds = sa.func.least(rest, _p("longest_rest_seconds", type_=sa.Double))
    rested = sa.func.now() + sa.func.make_interval(0, 0, 0, 0, 0, 0, seconds, type_=sa.Interval)
    rests_until = sa.func.greatest(
        sa.case((failures < RESTS_AFTER, None), else_=rested),
        sa.func.now() + _p("asked", type_=sa.Interval),
    )
    return Statement(
        sa.update(e)
        .where(
            e.c.tenant_id == _p("tenant_id"),
            e.c.id == _endpoint,
            # One that answers slowly stands as one that failed, and yet has failed no more.
            sa.or_(~is_good, e.c.standing != standing, e.c.failures > 0),
        )
        .values(
            standing=standing,
            failures=sa.case((is_good, 0), else_=failures),
            # Also where what was sent before the 410 is taken after it: only a word enables it again.
            rests_until=sa.case(
                (sa.or_(is_gone, is_disabled(e)), FOR_EVER), (is_good, None), else_=rests_until
            ),
        )
    )


_judge = _judge_statement()
_settle = _settle_statement()
_is_tried = sa.exists(
    sa.select(a.c.attempt)
    .where(
        a.c.tenant_id == d.c.tenant_id,
        a.c.endpoint_id == d.c.endpoint_id,
        a.c.event_id == d.c.event_id,
        a.c.attempt == d.c.attempt,
        a.c.ended_at.is_(None),
    )
    .correlate(d)
)
_replay = Statement(
    sa.update(d)
    .where(_this, ~_is_tried)
    .values(state=_PENDING, due_at=sa.func.now(), queued_at=sa.func.now(), tries=0, ended_at=None)
    .returning(d.c.event_id)
)
_hand_back = Statement(
    sa.update(d)
    .where(_this, d.c.attempt == _attempt, d.c.state == _PENDING)
    .values(due_at=sa.func.now(), tries=d.c.tries - 1)
)
_handed_back = Statement(
    sa.update(a).where(_tries, a.c.attempt == _attempt).values(ended_at=sa.func.now(), reason="handed_back")
)


_rouse = Statement(
    sa.update(e).where(e.c.tenant_id == _p("tenant_id"), e.c.id == _endpoint).values(rests_until=None)
)


def _forget_statement() -> Statement:
    ctid = sa.literal_column("webhook_deliveries.ctid")
    old = (
        sa.select(ctid)
        .select_from(d)
        .where(d.c.ended_at < sa.func.now() - _p("retention", type_=sa.Interval))
        .order_by(d.c.ended_at)
        .limit(sa.literal_column(str(AT_ONCE)))
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    return Statement(sa.delete(d).where(ctid == sa.func.any(sa.func.array(old))))


_forget = _forget_statement()


def _give_up_statement() -> Statement:
    key = (d.c.tenant_id, d.c.endpoint_id, d.c.event_id)
    unwanted = (
        sa.select(*key)
        .join_from(d, e, sa.and_(e.c.tenant_id == d.c.tenant_id, e.c.id == d.c.endpoint_id))
        .where(is_disabled(e), d.c.due_at.is_not(None), ~_is_tried)
        .limit(sa.literal_column(str(AT_ONCE)))
        .with_for_update(of=d, skip_locked=True)
        .cte("unwanted")
    )
    return Statement(
        sa.update(d)
        .where(*(column == unwanted.c[column.name] for column in key))
        .values(state=int(State.FAILED), due_at=None, ended_at=sa.func.now())
    )


_give_up = _give_up_statement()


async def settle(
    tx: Tx,
    claim: DeliveryClaim,
    outcome: Outcome,
    *,
    state: State,
    pause_seconds: float | None,
    rest_seconds: float,
) -> bool:
    """Write down how an attempt ended, and what becomes of its delivery; False if that was not ours to say
    any more, because the lease was over and another has claimed it.

    Args:
        pause_seconds: until the next attempt, if there is to be one.
        rest_seconds: for how long an endpoint is first left alone that fails again and again.
    """
    # First: whoever deletes the endpoint locks it before its deliveries, too.
    await tx.fetch(
        _judge,
        endpoint_id=claim.endpoint_id,
        standing=outcome.standing,
        is_good=outcome.is_delivered,
        is_gone=outcome.is_gone,
        asked=_interval(outcome.asked_seconds),
        rest_seconds=rest_seconds,
        longest_rest_seconds=LONGEST_REST_SECONDS,
    )
    row = await tx.fetch_one(
        _settle,
        endpoint_id=claim.endpoint_id,
        event_id=claim.event_id,
        attempt=claim.attempt,
        state=state,
        pause=_interval(pause_seconds),
        status_code=outcome.status_code,
        reason=outcome.reason,
    )
    return row is not None


async def hand_back(tx: Tx, claim: DeliveryClaim) -> None:
    """Give a claimed delivery back, for anyone to claim at once: that it was not tried is not its fault."""
    which = {"endpoint_id": claim.endpoint_id, "event_id": claim.event_id, "attempt": claim.attempt}
    await tx.fetch(_hand_back, **which)
    await tx.fetch(_handed_back, **which)


async def replay(tx: Tx, endpoint_id: UUID, event_id: UUID) -> bool:
    """Queue a delivery once more, from the first pause on, whatever became of it; with the same id and body.
    False if there is none, or it is being tried just now. Its endpoint is not left alone any longer.
    """
    await tx.fetch(_rouse, endpoint_id=endpoint_id)
    return await tx.fetch_one(_replay, endpoint_id=endpoint_id, event_id=event_id) is not None


async def get(tx: ReadTx, endpoint_id: UUID, event_id: UUID) -> Delivery | None:
    row = await tx.fetch_one(_of_event, endpoint_id=endpoint_id, event_id=event_id)
    return _delivery(row) if row else None


async def attempts_of(tx: ReadTx, endpoint_id: UUID, event_id: UUID) -> list[dict[str, Any]]:
    """Every attempt at a delivery, oldest first, as it is shown."""
    rows = await tx.fetch(_attempts_of, endpoint_id=endpoint_id, event_id=event_id)
    return [
        {
            "object": "webhook_delivery.attempt",
            "attempt": row["attempt"],
            "started_at": row["started_at"].timestamp(),
            "ended_at": row["ended_at"].timestamp() if row["ended_at"] else None,
            "status_code": row["status_code"],
            "reason": row["reason"],
        }
        for row in rows
    ]


async def page(
    tx: ReadTx,
    endpoint_id: UUID,
    *,
    limit: int,
    newest_first: bool,
    after: UUID | None = None,
    state: State | None = None,
) -> Sequence[Delivery]:
    """Up to `limit` deliveries to an endpoint beyond one of them, in the order of their responses."""
    start = after or UUID(int=(1 << 128) - 1 if newest_first else 0)
    rows = await tx.fetch(
        _pages[newest_first], endpoint_id=endpoint_id, after=start, limit=limit, state=state
    )
    return [_delivery(row) for row in rows]


async def give_up(tx: SystemTx) -> None:
    """Fail what waits for endpoints whose receivers are gone, but for what is being tried."""
    await tx.fetch(_give_up)


async def forget(tx: SystemTx, *, retention_seconds: float) -> None:
    """Remove deliveries that ended so long ago, with their attempts."""
    await tx.fetch(_forget, retention=timedelta(seconds=retention_seconds))


def _interval(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)


def _delivery(row: Row) -> Delivery:
    return Delivery(
        endpoint_id=UUID(int=row["endpoint_id"].int),
        event=Event(UUID(int=row["event_id"].int), row["event_type"], int(row["created_at"].timestamp())),
        state=State(row["state"]),
        attempts=row["attempt"],
        due_at=row["due_at"],
        ended_at=row["ended_at"],
    )
