"""Endpoints of webhooks: where a tenant wants to be told of what. Secrets come and go sealed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.domain.webhooks import OVERLAP_SECONDS, Endpoint, Standing
from app.store.db import ReadTx, Row, Tx
from app.store.statements import Statement
from app.store.turn_taking import alone
from app.store.webhook_tables import is_disabled
from app.store.webhook_tables import webhook_endpoints as e

_p = sa.bindparam
_alone = alone(e)
_this = sa.and_(e.c.tenant_id == _p("tenant_id"), e.c.id == _p("id"))
_SHOWN = (
    e.c.id, e.c.name, e.c.url, e.c.event_types, e.c.updated_at, e.c.secret_hint,
    is_disabled(e).label("is_disabled"),
)  # fmt: skip
_NEW = ("tenant_id", "id", "name", "url", "event_types", "secret", "secret_hint")

_few_enough = (
    sa.select(sa.func.count()).where(e.c.tenant_id == _p("tenant_id")).scalar_subquery()
    < _p("most", type_=sa.Integer)
)  # fmt: skip
_create = Statement(
    sa.insert(e)
    .from_select([*_NEW], sa.select(*(_p(name, type_=e.c[name].type) for name in _NEW)).where(_few_enough))
    .returning(*_SHOWN)
)
_get = Statement(sa.select(*_SHOWN).where(_this))
_page = Statement(
    sa.select(*_SHOWN)
    .where(e.c.tenant_id == _p("tenant_id"), e.c.id < _p("before"))
    .order_by(e.c.id.desc())
    .limit(_p("limit"))
)


def _change() -> Statement:
    """Only what is given; what comes to the same leaves `updated_at` as it is."""
    new = {
        name: sa.func.coalesce(_p(f"new_{name}", type_=e.c[name].type), e.c[name])
        for name in ("name", "url", "event_types")
    }
    changes = sa.or_(*(e.c[name] != value for name, value in new.items()))
    # Who is somewhere else now has to show again that it answers.
    stays = e.c.url == new["url"]
    afresh = {
        "standing": sa.case((stays, e.c.standing), else_=int(Standing.NEW)),
        "failures": sa.case((stays, e.c.failures), else_=0),
        # Who says where it is says that it is there, also where nothing has changed.
        "rests_until": sa.case((_p("new_url", type_=sa.Text).is_(None), e.c.rests_until), else_=None),
    }
    updated_at = sa.case((changes, sa.func.now()), else_=e.c.updated_at)
    return Statement(
        sa.update(e).where(_this).values(updated_at=updated_at, **afresh, **new).returning(*_SHOWN)
    )


_update = _change()
_overlap = _p("overlap", type_=sa.Interval)
_rotate = Statement(
    sa.update(e)
    .where(_this)
    .values(
        updated_at=sa.func.now(),
        old_secret=sa.case((_overlap.is_(None), None), else_=e.c.secret),
        old_secret_until=sa.func.now() + _overlap,
        secret=_p("new_secret", type_=sa.LargeBinary),
        secret_hint=_p("new_hint", type_=sa.Text),
    )
    .returning(*_SHOWN)
)
_delete = Statement(sa.delete(e).where(_this).returning(e.c.id))


def signing(table: sa.Table) -> tuple[sa.ColumnElement[Any], sa.ColumnElement[Any]]:
    """The secret of a row of endpoints, and the old one while it still signs."""
    is_over = sa.func.coalesce(table.c.old_secret_until <= sa.func.now(), True)
    return table.c.secret, sa.case((is_over, None), else_=table.c.old_secret).label("old_secret")


_target = Statement(sa.select(e.c.url, *signing(e)).where(_this))


@dataclass(frozen=True, slots=True)
class Target:
    """Where to send, and what signs it."""

    endpoint_id: UUID
    url: str
    sealed: tuple[bytes, ...]
    """The newest first."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What an endpoint is to become; None stays as it is."""

    name: str | None = None
    url: str | None = None
    event_types: Sequence[str] | None = None


async def create(
    tx: Tx, endpoint_id: UUID, given: Changes, *, sealed: bytes, secret_hint: str, most: int
) -> Endpoint | None:
    """Keep a new endpoint; None where the tenant has so many already."""
    await tx.fetch(_alone)
    row = await tx.fetch_one(
        _create,
        id=endpoint_id,
        name=given.name,
        url=given.url,
        event_types=list(given.event_types or ()),
        secret=sealed,
        secret_hint=secret_hint,
        most=most,
    )
    return _endpoint(row) if row else None


async def get(tx: ReadTx, endpoint_id: UUID) -> Endpoint | None:
    row = await tx.fetch_one(_get, id=endpoint_id)
    return _endpoint(row) if row else None


async def page(tx: ReadTx, *, after: UUID | None, limit: int) -> list[Endpoint]:
    """Up to `limit` endpoints, newest first, beyond one of them."""
    before = after or UUID(int=(1 << 128) - 1)
    return [_endpoint(row) for row in await tx.fetch(_page, before=before, limit=limit)]


async def update(tx: Tx, endpoint_id: UUID, changes: Changes) -> Endpoint | None:
    """Change what is given; None if there is no such endpoint."""
    row = await tx.fetch_one(
        _update,
        id=endpoint_id,
        new_name=changes.name,
        new_url=changes.url,
        new_event_types=None if changes.event_types is None else list(changes.event_types),
    )
    return _endpoint(row) if row else None


async def rotate(
    tx: Tx, endpoint_id: UUID, *, sealed: bytes, secret_hint: str, keeps_old: bool
) -> Endpoint | None:
    """Give an endpoint a new secret; the old one signs beside it for a day, or no more."""
    overlap = timedelta(seconds=OVERLAP_SECONDS) if keeps_old else None
    row = await tx.fetch_one(
        _rotate, id=endpoint_id, new_secret=sealed, new_hint=secret_hint, overlap=overlap
    )
    return _endpoint(row) if row else None


async def delete(tx: Tx, endpoint_id: UUID) -> bool:
    """Remove an endpoint with all that was, and is still to be, delivered to it."""
    return await tx.fetch_one(_delete, id=endpoint_id) is not None


async def target(tx: ReadTx, endpoint_id: UUID) -> Target | None:
    """Where to send what is not queued."""
    row = await tx.fetch_one(_target, id=endpoint_id)
    return Target(endpoint_id, row["url"], sealed_of(row)) if row else None


def sealed_of(row: Row) -> tuple[bytes, ...]:
    """The secrets in a row that `signing` was selected for."""
    return tuple(each for each in (row["secret"], row["old_secret"]) if each)


def _endpoint(row: Row) -> Endpoint:
    return Endpoint(
        id=UUID(int=row["id"].int),
        name=row["name"],
        url=row["url"],
        event_types=tuple(row["event_types"]),
        updated_at=row["updated_at"],
        secret_hint=row["secret_hint"],
        is_disabled=row["is_disabled"],
    )
