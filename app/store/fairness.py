"""Whose turn it is: tenants with queued responses are served one after the other (docs/decisions/0022).

Who claims remembers whom it served last, and begins behind that tenant. So nothing is shared that
claimers would have to wait for, and a claim reads two or three entries of ix_responses__queue, however
many responses or tenants are queued.
"""

from typing import Any

import sqlalchemy as sa

from app.store.db import SystemTx
from app.store.statements import IN_PROGRESS, QUEUED, Statement
from app.store.tables import responses as t

_p = sa.bindparam
_last_tenant = _p("last_tenant_id", type_=sa.BigInteger)
_turn_of = _p("turn_of", type_=sa.BigInteger)
_max_running = _p("max_running", type_=sa.Integer)
_count = _p("count", type_=sa.Integer)

CLAIMED_AT_ONCE = 16
"""Responses that one statement claims at most. For more the bell is rung again, and whoever is free comes."""

CLAIMED_BYTES = 4 << 20
"""Of what their rows hold, a larger one alone: inputs may have 100 MB, and all are read at once."""

# Written out: of a limit that it cannot see the planner expects a tenth of the table.
_ONE = sa.literal_column("1", sa.Integer)
_MOST = sa.literal_column(str(CLAIMED_AT_ONCE), sa.Integer)
_MOST_BYTES = sa.literal_column(str(CLAIMED_BYTES), sa.Integer)


def _tenant_after(tenant_id: sa.ColumnElement[int], until: sa.ColumnElement[int] | None) -> Any:
    """The next tenant with anything queued, or null: one look into the index."""
    queued = t.alias()
    query = sa.select(queued.c.tenant_id).where(queued.c.status == QUEUED, queued.c.tenant_id > tenant_id)
    if until is not None:
        query = query.where(queued.c.tenant_id <= until)
    # In the whole order of that index: no other has it, whatever the planner thinks of the queue's length.
    order = (queued.c.tenant_id, queued.c.priority, queued.c.id)
    return query.order_by(*order).limit(_ONE).scalar_subquery()


def _lap(name: str, after: sa.ColumnElement[int], until: sa.ColumnElement[int] | None = None) -> sa.CTE:
    """Tenants with anything queued, in order, then null; read no further than they are asked for."""
    lap = sa.select(_tenant_after(after, until).label("tenant_id")).cte(name, recursive=True)
    return lap.union_all(sa.select(_tenant_after(lap.c.tenant_id, until)).where(lap.c.tenant_id.is_not(None)))


def _laps() -> tuple[sa.CTE, sa.CTE]:
    """Everyone once: those behind whom was served last, then those before, and that one."""
    return (
        _lap("later", _last_tenant),
        _lap("earlier", sa.literal_column("0", sa.BigInteger), _last_tenant),
    )


def _head(tenant_id: sa.ColumnElement[int], count: sa.ColumnElement[int] = _ONE) -> sa.Select[Any, Any, Any]:
    """The first in a tenant's own queue that nobody holds; those that are held are passed by."""
    queued = t.alias()
    # Known without being read: what is long lies elsewhere.
    size = sa.func.pg_column_size(queued.c["items"]) + sa.func.pg_column_size(queued.c.request)
    return (
        sa.select(queued.c.tenant_id, queued.c.id, sa.func.coalesce(size, 0).label("size"))
        .where(queued.c.tenant_id == tenant_id, queued.c.status == QUEUED)
        .order_by(queued.c.priority, queued.c.id)
        .limit(count)
        .with_for_update(skip_locked=True)
    )


def _has_room(tenant_id: sa.ColumnElement[int], *outer: sa.FromClause) -> sa.ColumnElement[bool]:
    """Whether there is no `max_running`th response running; counts no further."""
    running = t.alias()
    last = (
        sa.select(running.c.id)
        .where(running.c.tenant_id == tenant_id, running.c.status == IN_PROGRESS)
        .offset(_max_running - _ONE)
        .limit(_ONE)
    )
    return ~sa.exists(last.correlate(*outer))


def first_in_turn() -> sa.CTE:
    """The first `count` responses of the tenant whose turn it is, then of the next, locked, but no more than
    `CLAIMED_AT_ONCE`, and none behind `CLAIMED_BYTES`; takes `last_tenant_id`.
    """
    heads = list[sa.Select[Any, Any]]()
    for lap in _laps():
        head = _head(lap.c.tenant_id, _count).lateral()
        heads.append(sa.select(*head.c).select_from(lap.join(head, sa.true())))
    either = sa.union_all(*heads).subquery()
    wanted = sa.select(*either.c).limit(_count).subquery()
    before = sa.func.sum(wanted.c.size).over(rows=(None, -1))
    few = sa.select(*wanted.c, sa.func.coalesce(before, 0).label("before")).limit(_MOST).subquery()
    return sa.select(few.c.tenant_id, few.c.id).where(few.c.before < _MOST_BYTES).cte("first")


def first_of_tenant() -> sa.CTE:
    """The first response of the tenant that `take_turn` has named, locked, if there is room for it still;
    takes `turn_of` and `max_running`.
    """
    head = _head(_turn_of).where(_has_room(_turn_of)).subquery()
    return sa.select(head.c.tenant_id, head.c.id).cte("first")


def _take() -> Statement:
    turns = [
        sa.select(lap.c.tenant_id).where(lap.c.tenant_id.is_not(None), _has_room(lap.c.tenant_id, lap))
        for lap in _laps()
    ]
    either = sa.union_all(*turns).subquery()
    chosen = sa.select(either.c.tenant_id).limit(_ONE).cte("chosen")
    # Not the key with which `enqueue` counts: nobody has to wait for both.
    return Statement(sa.select(chosen.c.tenant_id, sa.func.pg_advisory_xact_lock(-chosen.c.tenant_id)))


_turn = _take()


async def take_turn(tx: SystemTx, *, last_tenant_id: int, max_running: int) -> int | None:
    """The next tenant with queued work and fewer than `max_running` responses running, if there is one.

    Others who would claim of this tenant wait until the transaction ends: that makes the limit exact,
    once it is looked at again.
    """
    row = await tx.fetch_one(_turn, last_tenant_id=last_tenant_id, max_running=max_running)
    return row["tenant_id"] if row else None
