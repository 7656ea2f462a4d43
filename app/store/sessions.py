"""Who is logged in at the page: of what the cookie holds only the hash is here.

A session is looked up before its tenant is known, so everything here acts for all tenants. It is worth
what its key is worth: whoever asks for one also asks `keys` whether that key still counts.
"""

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import sqlalchemy as sa

from app.store.db import SystemTx
from app.store.statements import Statement
from app.store.tables import api_keys as k
from app.store.tables import tenants as t
from app.store.tables import ui_sessions as s

_p = sa.bindparam

_create = Statement(
    sa.insert(s).values(
        hash=_p("hash"),
        tenant_id=_p("tenant_id"),
        key_id=_p("key_id"),
        expires_at=sa.func.now() + _p("lifetime", type_=sa.Interval),
    )
)
# By pk_ui_sessions, uq_api_keys__id and pk_tenants: one row of each.
_find = Statement(
    sa.select(s.c.key_id, k.c.name.label("key_name"), t.c.name.label("tenant"))
    .select_from(s.join(k, k.c.id == s.c.key_id).join(t, t.c.id == s.c.tenant_id))
    .where(s.c.hash == _p("hash"), s.c.expires_at > sa.func.now())
)
_end = Statement(sa.delete(s).where(s.c.hash == _p("hash")))
_prune = Statement(sa.delete(s).where(s.c.expires_at <= sa.func.now()))


@dataclass(frozen=True, slots=True)
class Session:
    """A session that has not expired, in the words that people know it by."""

    key_id: UUID
    key_name: str
    tenant: str


async def create(
    tx: SystemTx, token_hash: bytes, *, tenant_id: int, key_id: UUID, lifetime: timedelta
) -> None:
    """Begin a session, and forget those that are over: logging in is seldom, and there are few."""
    await tx.fetch(_prune)
    await tx.fetch(_create, hash=token_hash, tenant_id=tenant_id, key_id=key_id, lifetime=lifetime)


async def find(tx: SystemTx, token_hash: bytes) -> Session | None:
    """The session, or None if there is none, it was ended, or it has expired by the database's clock."""
    row = await tx.fetch_one(_find, hash=token_hash)
    return Session(UUID(int=row["key_id"].int), row["key_name"], row["tenant"]) if row else None


async def end(tx: SystemTx, token_hash: bytes) -> None:
    """Log out. A session that is gone already is no error."""
    await tx.fetch(_end, hash=token_hash)
