"""API keys: of each only the hash is here. A key is looked up before its tenant is known.

So everything acts for all tenants: requests have no business with keys, their own included.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from app.domain.dialects import Dialect
from app.domain.dialects import parse as parse_dialect
from app.domain.keys import Key
from app.domain.tenancy import Caller, Scope
from app.store.db import Row, SystemTx
from app.store.statements import Statement
from app.store.tables import api_keys as k
from app.store.tables import tenants as t

_p = sa.bindparam

_create = Statement(
    sa.insert(k).values(
        tenant_id=_p("tenant_id"),
        id=_p("id"),
        expires_at=sa.func.now() + _p("lifetime", type_=sa.Interval),
        scopes=_p("scopes"),
        name=_p("name"),
        hash=_p("hash"),
        dialect=_p("dialect"),
    )
)
_has_ended = sa.or_(k.c.revoked_at.is_not(None), k.c.expires_at <= sa.func.now())
_valid = Statement(
    sa.select(k.c.id, k.c.tenant_id, k.c.scopes, k.c.hash, k.c.dialect, t.c.models, t.c.name.label("tenant"))
    .join_from(k, t, t.c.id == k.c.tenant_id)
    .where(
        k.c.id == sa.func.any(_p("ids", type_=pg.ARRAY(pg.UUID))),
        sa.func.coalesce(_has_ended, False).is_(False),
    )
)
_list = Statement(
    sa.select(
        k.c.id,
        k.c.name,
        k.c.scopes,
        k.c.created_at,
        k.c.expires_at,
        k.c.revoked_at,
        k.c.last_used_at,
        k.c.dialect,
        sa.func.coalesce(k.c.expires_at <= sa.func.now(), False).label("has_expired"),
        t.c.name.label("tenant"),
    )
    .join_from(k, t, t.c.id == k.c.tenant_id)
    .where(sa.or_(_p("tenant", type_=sa.Text).is_(None), t.c.name == _p("tenant", type_=sa.Text)))
    .order_by(t.c.name, k.c.id)
)
_revoke = Statement(
    sa.update(k)
    .where(k.c.id == _p("id_"))
    .values(revoked_at=sa.func.coalesce(k.c.revoked_at, sa.func.now()))
    .returning(k.c.tenant_id, (k.c.revoked_at == sa.func.now()).label("is_first"))
)
# Another process may be noting the same keys: then that is noted, and neither waits for the other.
_note_uses = Statement(
    sa.update(k)
    .where(
        k.c.id.in_(
            sa.select(k.c.id)
            .where(k.c.id == sa.func.any(_p("ids", type_=pg.ARRAY(pg.UUID))))
            .with_for_update(skip_locked=True, key_share=True)
        )
    )
    .values(last_used_at=sa.func.now())
)
_any = Statement(sa.select(sa.exists(sa.select(k.c.id)).label("found")))


@dataclass(frozen=True, slots=True)
class ListedKey:
    """A key as its operator sees it."""

    id: UUID
    tenant: str
    name: str
    scopes: Scope
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    """To the minute."""
    has_expired: bool
    dialect: Dialect | None


@dataclass(frozen=True, slots=True)
class Revoked:
    """Whose key was ended."""

    tenant_id: int
    is_first: bool
    """Whether that was done just now, and not before."""


@dataclass(frozen=True, slots=True)
class ValidKey:
    """Whom a key stands for, if its hash fits."""

    caller: Caller
    hash: bytes


async def create(
    tx: SystemTx,
    key: Key,
    *,
    tenant_id: int,
    scopes: Scope,
    name: str = "",
    lifetime: timedelta | None = None,
    dialect: Dialect | None = None,
) -> None:
    """Keep what checks a key; its text cannot be had from that."""
    await tx.fetch(
        _create,
        tenant_id=tenant_id,
        id=key.id,
        scopes=int(scopes),
        name=name,
        hash=key.hash,
        lifetime=lifetime,
        dialect=dialect,
    )


async def find_valid(tx: SystemTx, key_ids: Collection[UUID]) -> dict[UUID, ValidKey]:
    """Those of these keys that are there, not revoked, and not expired by the database's clock."""
    rows = await tx.fetch(_valid, ids=list(key_ids))
    return {row["id"]: _valid_key(row) for row in rows}


async def list_all(tx: SystemTx, *, tenant: str | None = None) -> Sequence[ListedKey]:
    """Every key, revoked and expired ones too, of one tenant or of all; oldest first within a tenant."""
    rows = await tx.fetch(_list, tenant=tenant)
    return [
        ListedKey(
            id=row["id"],
            tenant=row["tenant"],
            name=row["name"],
            scopes=Scope(row["scopes"]),
            created_at=row["created_at"],
            expires_at=row["expires_at"],
            revoked_at=row["revoked_at"],
            last_used_at=row["last_used_at"],
            has_expired=row["has_expired"],
            dialect=parse_dialect(row["dialect"]),
        )
        for row in rows
    ]


async def revoke(tx: SystemTx, key_id: UUID) -> Revoked | None:
    """End a key; None if there is none. The row stays, and so does the time of the first revocation."""
    row = await tx.fetch_one(_revoke, id_=key_id)
    return Revoked(row["tenant_id"], row["is_first"]) if row else None


async def note_uses(tx: SystemTx, key_ids: Collection[UUID]) -> None:
    """Note for many keys that they have been used just now."""
    await tx.fetch(_note_uses, ids=list(key_ids))


async def exist(tx: SystemTx) -> bool:
    """Whether there ever was a key, since rows of revoked ones stay."""
    row = await tx.fetch_one(_any)
    return bool(row and row["found"])


def _valid_key(row: Row) -> ValidKey:
    models = None if row["models"] is None else tuple(row["models"])
    dialect = parse_dialect(row["dialect"])
    caller = Caller(row["tenant_id"], row["id"], Scope(row["scopes"]), models, dialect, row["tenant"])
    return ValidKey(caller, row["hash"])
