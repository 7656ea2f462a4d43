"""Idempotency keys: claimed by one request, ended in the transaction that stores what they stand for.

So a key whose claim has ended stands for something that is stored, and one whose claim was lost stands
for nothing: whoever comes next may have it.
"""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from app.domain.idempotency import IdempotencyKey, Kept, KeyClaim
from app.store.codec import CODEC, compress, decompress
from app.store.db import ReadTx, Row, SystemTx, Tx
from app.store.statements import Statement
from app.store.tables import idempotency_keys as k

FORGOTTEN_AT_ONCE = 5000
"""Keys that one round of pruning removes. What is left waits for the next, and stands for nothing."""

_p = sa.bindparam
_this = sa.and_(k.c.tenant_id == _p("tenant_id"), k.c.key == _p("key"))
_ours = sa.and_(_this, k.c.response_id == _p("response_id"))
_old = sa.func.now() - _p("retention", type_=sa.Interval)
_lease_is_over = k.c.lease_until < sa.func.now()


def _claim_if_free() -> Statement:
    """Insert the key, or take over one that stands for nothing: too old, or left by who has vanished."""
    values = {name: _p(name) for name in ("tenant_id", "key", "fingerprint", "response_id")}
    insert = pg.insert(k).values(**values, lease_until=sa.func.now() + _p("lease", type_=sa.Interval))
    new = {name: insert.excluded[name] for name in ("fingerprint", "response_id", "lease_until")}
    taken = insert.on_conflict_do_update(
        index_elements=[k.c.tenant_id, k.c.key],
        set_={**new, "created_at": sa.func.now(), "answer": None},
        where=sa.or_(_lease_is_over, sa.and_(k.c.lease_until.is_(None), k.c.created_at < _old)),
    )
    return Statement(taken.returning(k.c.key))


_claim = _claim_if_free()
_find = Statement(
    sa.select(
        k.c.fingerprint, k.c.response_id, k.c.answer, k.c.lease_until.is_not(None).label("is_running"),
        sa.func.coalesce(_lease_is_over, sa.false()).label("is_lease_over"),
    ).where(_this)
)  # fmt: skip
_end = Statement(sa.update(k).where(_ours).values(lease_until=None).returning(k.c.key))
_release = Statement(sa.delete(k).where(_ours, k.c.lease_until.is_not(None)))
_answer = Statement(sa.update(k).where(_this).values(answer=_p("answer")))

_held = (
    sa.func.unnest(
        _p("tenants", type_=pg.ARRAY(sa.BigInteger)),
        _p("keys", type_=pg.ARRAY(sa.Text)),
        _p("ids", type_=pg.ARRAY(pg.UUID)),
    )
    .table_valued(sa.column("tenant_id", sa.BigInteger), sa.column("key", sa.Text), sa.column("id", pg.UUID))
    .render_derived("held")
)
_still_ours = (
    sa.select(k.c.tenant_id, k.c.key)
    .join_from(
        k,
        _held,
        sa.and_(
            k.c.tenant_id == _held.c.tenant_id,
            k.c.key == _held.c.key,
            k.c.response_id == _held.c.id,
        ),
    )
    # Of two renewals under way at once, each would else wait for the other.
    .order_by(k.c.tenant_id, k.c.key)
    .with_for_update(of=k)
    .cte("ours")
)
_renew = Statement(
    sa.update(k)
    .where(k.c.tenant_id == _still_ours.c.tenant_id, k.c.key == _still_ours.c.key)
    # A claim that has just ended stays ended: whoever had it is about to learn that.
    .values(
        lease_until=sa.case(
            (k.c.lease_until.is_(None), None),
            else_=sa.func.greatest(k.c.lease_until, sa.func.now() + _p("lease", type_=sa.Interval)),
        )
    )
    .returning(k.c.tenant_id, k.c.key, k.c.response_id)
)


def _prune_old() -> Statement:
    """Remove the oldest keys by ix_idempotency_keys__created_at; not those that are still running."""
    ctid = sa.literal_column("idempotency_keys.ctid")
    oldest = (
        sa.select(ctid)
        .select_from(k)
        .where(k.c.created_at < _old, sa.or_(k.c.lease_until.is_(None), _lease_is_over))
        .order_by(k.c.created_at)
        .limit(sa.literal_column(str(FORGOTTEN_AT_ONCE)))
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    return Statement(sa.delete(k).where(ctid == sa.func.any(sa.func.array(oldest))))


_prune = _prune_old()


async def claim(
    tx: Tx,
    key: IdempotencyKey,
    response_id: UUID | None,
    *,
    lease_seconds: float | None,
    retention_seconds: float,
) -> Kept | None:
    """Claim a key, or learn who has it; None if it is ours.

    Args:
        response_id: what the response will be called; None for what is written in this transaction.
        lease_seconds: how long the claim outlives its process; None for a claim that ends with this
            transaction, for which others wait here meanwhile.
        retention_seconds: how long a key stands for what it was first sent for.
    """
    lease = None if lease_seconds is None else timedelta(seconds=lease_seconds)
    values = {"key": key.text, "fingerprint": key.fingerprint, "response_id": response_id, "lease": lease}
    while not await tx.fetch_one(_claim, **values, retention=timedelta(seconds=retention_seconds)):
        if row := await tx.fetch_one(_find, key=key.text):
            return _kept(row)
    return None


async def find(tx: ReadTx, key: str) -> Kept | None:
    """Who has a key; None if nobody has, so that it may be claimed."""
    row = await tx.fetch_one(_find, key=key)
    return _kept(row) if row and not row["is_lease_over"] else None


async def end(tx: Tx, claim: KeyClaim) -> bool:
    """End a claim with the transaction that stores its response; False if it was lost, so that nothing
    may be stored. Repeating it is harmless.
    """
    return await tx.fetch_one(_end, key=claim.key, response_id=claim.response_id) is not None


async def release(tx: Tx, claim: KeyClaim) -> None:
    """Give up a claim for which nothing was stored; one that has ended stays."""
    await tx.fetch(_release, key=claim.key, response_id=claim.response_id)


async def answer(tx: Tx, key: str, content: bytes) -> None:
    """Keep what is answered to the request that has claimed this key in this transaction."""
    await tx.fetch(_answer, key=key, answer=compress(content))


async def renew(tx: SystemTx, claims: Sequence[KeyClaim], *, lease_seconds: float) -> set[KeyClaim]:
    """Prolong the leases; the claims among them that still stand. The rest was lost."""
    rows = await tx.fetch(
        _renew,
        tenants=[claim.tenant_id for claim in claims],
        keys=[claim.key for claim in claims],
        ids=[claim.response_id for claim in claims],
        lease=timedelta(seconds=lease_seconds),
    )
    return {KeyClaim(row["tenant_id"], row["key"], UUID(int=row["response_id"].int)) for row in rows}


async def prune(tx: SystemTx, *, retention_seconds: float) -> None:
    """Forget the oldest keys, which stand for nothing any more."""
    await tx.fetch(_prune, retention=timedelta(seconds=retention_seconds))


def _kept(row: Row) -> Kept:
    return Kept(
        fingerprint=row["fingerprint"],
        response_id=UUID(int=row["response_id"].int) if row["response_id"] else None,
        is_running=row["is_running"],
        answer=decompress(row["answer"], CODEC) if row["answer"] else None,
    )
