"""What responses came to, by model, status, day or user, over whole days (UTC) of their creation.

By model, status and day the days' own counts answer, however many responses there were. Where users are
asked for, the facts of all responses of those days are read, or of that user's alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from functools import lru_cache
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from app.domain.facts import percentile
from app.domain.response import Status
from app.domain.search import first_id
from app.store.db import Row, Tx
from app.store.search_statements import PLAN_FOR_VALUES
from app.store.statements import Statement, storable
from app.store.tables import response_facts as f
from app.store.tables import response_stats as s

_p = sa.bindparam

GroupBy = Literal["model", "status", "day", "user"]

MAX_GROUPS = 1000
"""Of more groups than that only the largest are told of."""

SUMS = ("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens", "cost_nanos")
SHARES = (0.5, 0.9, 0.95, 0.99)

Value = str | Status | date | None


@dataclass(frozen=True, slots=True)
class Asked:
    """Which responses are counted: of all days from `first` on and before `end` that these fit."""

    first: date
    end: date
    model: str | None = None
    status: Status | None = None
    user: str | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """What one group came to."""

    value: Value
    """The model, status, day or user that all of it have; None where a response named no user."""
    count: int
    sums: Mapping[str, int]
    percentiles_ms: Mapping[float, float | None]
    """For each of `SHARES` the time from creation to end that this share did not exceed, to a twentieth."""


async def groups(tx: Tx, asked: Asked, by: GroupBy) -> list[Group]:
    """The groups, the largest first; days in their order.

    A transaction (`begin`), because it has to be planned for the values that are asked for.
    """
    if by == "user" or asked.user is not None:
        found = await _of_facts(tx, asked, by)
    else:
        found = await _of_days(tx, asked, by)
    if by == "day":
        return sorted(found, key=lambda group: str(group.value))
    return sorted(found, key=lambda group: -group.count)[:MAX_GROUPS]


async def _of_days(tx: Tx, asked: Asked, by: GroupBy) -> list[Group]:
    given = {
        name: value for name, value in (("model", asked.model), ("status", asked.status)) if value is not None
    }
    rows = await tx.fetch(
        _day_counts(by, frozenset(given)), first=asked.first, end=asked.end, **_storable(given)
    )
    return [_group(by, row) for row in rows]


def _group(by: GroupBy, row: Row) -> Group:
    counts = dict(zip(row["steps"], row["counts"], strict=True))
    sums = {name: int(row[name]) for name in SUMS}
    percentiles = {share: percentile(counts, share) for share in SHARES}
    return Group(_value(by, row), sum(counts.values()), sums, percentiles)


async def _of_facts(tx: Tx, asked: Asked, by: GroupBy) -> list[Group]:
    wanted = (("model", asked.model), ("status", asked.status), ("user", asked.user))
    given = {name: value for name, value in wanted if value is not None}
    await tx.fetch(PLAN_FOR_VALUES)
    rows = await tx.fetch(
        _fact_counts(by, frozenset(given)),
        first=first_id(_midnight(asked.first)),
        end=first_id(_midnight(asked.end)),
        shares=list(SHARES),
        **_storable(given),
    )
    return [
        Group(
            _value(by, row),
            row["count"],
            {name: int(row[name] or 0) for name in SUMS},
            dict(zip(SHARES, row["durations"] or [None] * len(SHARES), strict=True)),
        )
        for row in rows
    ]


@lru_cache(maxsize=100)
def _day_counts(by: str, given: frozenset[str]) -> Statement:
    """By pk_response_stats: as many rows as there are days, models, statuses and steps between."""
    totals = [sa.func.sum(s.c[name]).label(name) for name in ("count", *SUMS)]
    query = sa.select(s.c[by].label("value"), s.c.duration_step, *totals).where(
        s.c.tenant_id == _p("tenant_id"), s.c.day >= _p("first"), s.c.day < _p("end")
    )
    for name in sorted(given):
        query = query.where(s.c[name] == _p(name))
    step = query.group_by(s.c[by], s.c.duration_step).subquery("step")
    steps = [
        sa.func.array_agg(step.c.duration_step).label("steps"),
        sa.func.array_agg(sa.cast(step.c["count"], sa.BigInteger)).label("counts"),
    ]
    sums = [sa.func.sum(step.c[name]).label(name) for name in SUMS]
    return Statement(sa.select(step.c.value, *sums, *steps).group_by(step.c.value))


@lru_cache(maxsize=100)
def _fact_counts(by: str, given: frozenset[str]) -> Statement:
    """By ix_response_facts__user for one user, else along the primary key through all of those days."""
    minted = sa.func.to_timestamp(_millis(f.c.id) / sa.literal_column("1000.0"))
    value = sa.cast(sa.func.timezone(sa.literal_column("'UTC'"), minted), sa.Date) if by == "day" else f.c[by]
    totals = [sa.func.sum(f.c[name]).label(name) for name in SUMS]
    durations = sa.func.percentile_cont(_p("shares", type_=pg.ARRAY(sa.Float))).within_group(f.c.duration_ms)
    query = sa.select(
        value.label("value"), sa.func.count().label("count"), *totals, durations.label("durations")
    ).where(
        f.c.tenant_id == _p("tenant_id"),
        f.c.id >= _p("first"),
        f.c.id < _p("end"),
        f.c.status >= sa.literal_column(str(int(Status.COMPLETED))),
    )
    for name in sorted(given):
        query = query.where(f.c[name] == _p(name))
    # The largest groups are kept, for there may be as many users as responses.
    return Statement(
        query.group_by(sa.literal_column("1")).order_by(sa.literal_column("2 desc")).limit(MAX_GROUPS)
    )


def _millis(id_: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """The time in an id: its first 48 bits, which Postgres reads as a number from their hexadecimal."""
    digits = sa.func.left(sa.func.replace(sa.cast(id_, sa.Text), "-", ""), sa.literal_column("12"))
    return sa.cast(sa.cast(sa.literal_column("'x'").concat(digits), pg.BIT(48)), sa.BigInteger)


def _value(by: GroupBy, row: Row) -> Value:
    return Status(row["value"]) if by == "status" else row["value"]


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _storable(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: storable(value) if isinstance(value, str) else value for name, value in given.items()}
