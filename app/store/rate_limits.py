"""What a tenant has used of its requests and tokens per minute: GCRA, one row and one statement a request.

A limit is a bucket that holds a minute's worth and fills steadily. Kept of it is one instant: when it will
be full again. Using something moves it on by the time in which that much flows in, and what would move it
beyond a minute from now is refused. So no window begins or ends, and all processes agree.
"""

from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from app.store.db import ReadTx, Tx
from app.store.statements import Statement
from app.store.tables import rate_limits as r

WINDOW = timedelta(minutes=1)

_p = sa.bindparam
_NAMES = ("requests", "tokens")
_window = sa.literal_column(f"interval '{WINDOW.total_seconds():.0f} seconds'", sa.Interval)


@dataclass(frozen=True, slots=True)
class Used:
    """In how many seconds nothing of a limit will be in use any more; beyond a minute is a debt."""

    requests_seconds: float
    tokens_seconds: float


def _until(name: str) -> sa.ColumnElement[object]:
    return r.c[f"{name}_until"]


def _moved(name: str) -> sa.ColumnElement[object]:
    return sa.func.greatest(_until(name), sa.func.now()) + _p(name, type_=sa.Interval)


def _fits(name: str) -> sa.ColumnElement[bool]:
    """What is not asked for is not looked at: its limit may have been switched off meanwhile."""
    is_free = _p(name, type_=sa.Interval) == sa.literal_column("interval '0'", sa.Interval)
    return sa.or_(is_free, _moved(name) <= sa.func.now() + _window)


_seconds = [
    sa.extract("epoch", _until(name) - sa.func.now()).cast(sa.Double).label(f"{name}_seconds")
    for name in _NAMES
]
_use = Statement(
    pg.insert(r)
    .values(
        tenant_id=_p("tenant_id"),
        **{f"{name}_until": sa.func.now() + _p(name, type_=sa.Interval) for name in _NAMES},
    )
    .on_conflict_do_update(
        index_elements=[r.c.tenant_id],
        set_={f"{name}_until": _moved(name) for name in _NAMES},
        where=sa.and_(*(_fits(name) for name in _NAMES)),
    )
    .returning(*_seconds)
)
_look = Statement(sa.select(*_seconds).where(r.c.tenant_id == _p("tenant_id")))
_correct = Statement(
    sa.update(r).where(r.c.tenant_id == _p("tenant_id")).values(tokens_until=_moved("tokens"))
)


async def use(tx: Tx, *, requests: timedelta, tokens: timedelta) -> Used | None:
    """Use so much of each limit, neither more than `WINDOW`; all of it, or nothing, which is None.

    Amounts are the times in which they flow in again; zero for what is not limited.
    """
    row = await tx.fetch_one(_use, requests=requests, tokens=tokens)
    return Used(**row) if row else None


async def look(tx: ReadTx) -> Used:
    """What is in use now."""
    row = await tx.fetch_one(_look)
    return Used(**row) if row else Used(0, 0)


async def correct(tx: Tx, *, tokens: timedelta) -> None:
    """Use so many more tokens, or less where it is negative, whatever the limit says: they were used."""
    await tx.fetch(_correct, tokens=tokens)
