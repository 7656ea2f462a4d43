"""What each day's responses came to, told apart by status or by model, and all of them as one: for plots.

Of the days' own counts alone, so in no time, however many responses there were; of users those know nothing.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from app.domain.facts import percentile
from app.domain.response import Status
from app.store.db import ReadTx
from app.store.statements import Statement, storable
from app.store.stats import SHARES, SUMS, Asked, Group
from app.store.tables import response_stats as s

_p = sa.bindparam

SplitBy = Literal["status", "model"]


@dataclass(frozen=True, slots=True)
class DayCount:
    """How many responses of one day have the same status, or the same model."""

    day: date
    value: str | Status | None
    """None is all others together."""
    count: int


async def whole(tx: ReadTx, asked: Asked) -> Group:
    """All that fits, as one group without a value."""
    given = _given(asked)
    rows = await tx.fetch(_steps(frozenset(given)), first=asked.first, end=asked.end, **given)
    counts = {row["duration_step"]: int(row["count"]) for row in rows}
    sums = {name: sum(int(row[name]) for row in rows) for name in SUMS}
    return Group(None, sum(counts.values()), sums, {share: percentile(counts, share) for share in SHARES})


async def day_counts(
    tx: ReadTx, asked: Asked, by: SplitBy, among: Collection[str | Status]
) -> list[DayCount]:
    """The counts of each day, in the order of days.

    Args:
        among: the statuses or models that are told apart.
    """
    given, apart = _given(asked), [_storable(each) for each in among]
    statement = _split_days(by, frozenset(given))
    rows = await tx.fetch(statement, first=asked.first, end=asked.end, among=apart, **given)
    values = dict(zip(apart, among, strict=True))
    return [DayCount(row["day"], values.get(row["value"]), int(row["count"])) for row in rows]


@lru_cache
def _steps(given: frozenset[str]) -> Statement:
    """As many rows as there are steps of the scale, by pk_response_stats."""
    totals = [sa.func.sum(s.c[name]).label(name) for name in ("count", *SUMS)]
    query = sa.select(s.c.duration_step, *totals).where(*_of_days(given))
    return Statement(query.group_by(s.c.duration_step))


@lru_cache
def _split_days(by: SplitBy, given: frozenset[str]) -> Statement:
    """As many rows as days and values; what is not among the values is one of them. By pk_response_stats."""
    is_among = s.c[by] == sa.func.any(_p("among", type_=pg.ARRAY(s.c[by].type)))
    value = sa.case((is_among, s.c[by])).label("value")
    each = sa.select(s.c.day, value, s.c["count"]).where(*_of_days(given)).subquery("each")
    query = sa.select(each.c.day, each.c.value, sa.func.sum(each.c["count"]).label("count"))
    return Statement(query.group_by(each.c.day, each.c.value).order_by(each.c.day))


def _of_days(given: frozenset[str]) -> list[Any]:
    own = [s.c[name] == _p(name) for name in sorted(given)]
    return [s.c.tenant_id == _p("tenant_id"), s.c.day >= _p("first"), s.c.day < _p("end"), *own]


def _given(asked: Asked) -> dict[str, Any]:
    if asked.user is not None:
        raise ValueError("the counts of days know no users")
    wanted = (("model", asked.model), ("status", asked.status))
    return {name: _storable(value) for name, value in wanted if value is not None}


def _storable(value: str | Status) -> str | int:
    return int(value) if isinstance(value, Status) else storable(value)
