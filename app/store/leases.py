"""Leases of claimed responses, prolonged many at once. Winning and ending one is `lifecycle`."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from app.domain.jobs import Claim
from app.store.db import SystemTx
from app.store.statements import IN_PROGRESS, Statement
from app.store.tables import responses as t

_p = sa.bindparam
_soon = sa.func.now() + _p("lease", type_=sa.Interval)

_held = (
    sa.func.unnest(
        _p("tenants", type_=pg.ARRAY(sa.BigInteger)),
        _p("ids", type_=pg.ARRAY(pg.UUID)),
        _p("attempts", type_=pg.ARRAY(sa.SmallInteger)),
    )
    .table_valued(
        sa.column("tenant_id", sa.BigInteger), sa.column("id", pg.UUID), sa.column("attempt", sa.SmallInteger)
    )
    .render_derived("held")
)
_ours = (
    sa.select(t.c.tenant_id, t.c.id)
    .join_from(
        t,
        _held,
        sa.and_(
            t.c.tenant_id == _held.c.tenant_id,
            t.c.id == _held.c.id,
            t.c.attempt == _held.c.attempt,
            t.c.status == IN_PROGRESS,
        ),
    )
    # Locked in the order in which the journal locks them, or each would wait for the other.
    .order_by(t.c.tenant_id, t.c.id)
    .with_for_update(key_share=True, of=t)
    .cte("ours")
)
_renew = Statement(
    sa.update(t)
    .where(t.c.tenant_id == _ours.c.tenant_id, t.c.id == _ours.c.id)
    # Of two renewals under way at once, the older may come last.
    .values(lease_until=sa.func.greatest(t.c.lease_until, _soon))
    .returning(t.c.tenant_id, t.c.id, t.c.attempt)
)


async def renew(tx: SystemTx, claims: Sequence[Claim], *, lease_seconds: float) -> set[Claim]:
    """Prolong the leases; the claims among them that still stand. The rest was lost."""
    rows = await tx.fetch(
        _renew,
        tenants=[claim.tenant_id for claim in claims],
        ids=[claim.response_id for claim in claims],
        attempts=[claim.attempt for claim in claims],
        lease=timedelta(seconds=lease_seconds),
    )
    return {Claim(row["tenant_id"], UUID(int=row["id"].int), row["attempt"]) for row in rows}
