"""What is stored now of what the audit trail tells of: for whoever compares the two."""

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from app.domain.audit import content_digest
from app.store.codec import decompress
from app.store.db import ReadTx, Row
from app.store.statements import Statement
from app.store.tables import audit_outbox as o
from app.store.tables import audit_records as r
from app.store.tables import responses as t

_p = sa.bindparam
_ids = _p("ids", type_=pg.ARRAY(pg.UUID))


def _with_digests() -> Statement:
    """The turns of these ids with the last digest that the trail has of each, by ix_audit_records__subject.

    One statement, so that nothing is stored between the two; and what the outbox still has to tell of, its
    trail knows less of than its row.
    """
    pending = (
        sa.select(o.c.subject)
        .where(o.c.tenant_id == _p("tenant_id"), o.c.subject == sa.func.any(_ids))
        .cte("pending")
        .prefix_with("materialized", dialect="postgresql")
    )
    digest = (
        sa.select(r.c.digest)
        .where(r.c.tenant_id == _p("tenant_id"), r.c.subject == t.c.id, r.c.digest.is_not(None))
        .order_by(r.c.seq.desc())
        .limit(sa.literal_column("1"))
        .scalar_subquery()
    )
    is_pending = t.c.id.in_(sa.select(pending.c.subject))
    return Statement(
        sa.select(
            t.c.id, t.c.codec, t.c.body, t.c["items"], digest.label("digest"), is_pending.label("is_pending")
        ).where(t.c.tenant_id == _p("tenant_id"), t.c.id == sa.func.any(_ids))
    )


_find = _with_digests()


@dataclass(frozen=True, slots=True)
class Content:
    """A turn as its row has it."""

    digest: bytes | None
    """Of its body and items; None where they cannot be read."""
    recorded: bytes | None
    """The last digest of it that the trail has, as a response."""
    is_pending: bool
    """Whether the outbox still has something to tell of it."""


async def find(tx: ReadTx, turn_ids: Collection[UUID]) -> dict[UUID, Content]:
    """Those of these turns that are there; deleted ones too, for their rows stay."""
    rows = await tx.fetch(_find, ids=list(turn_ids))
    return {UUID(int=row["id"].int): _content(row) for row in rows}


def _content(row: Row) -> Content:
    try:
        digest = content_digest(*(decompress(row[name], row["codec"]) for name in ("body", "items")))
    except (LookupError, ValueError):
        digest = None
    return Content(digest, row["digest"], row["is_pending"])
