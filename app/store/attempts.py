"""Attempts: who tried a response, when, and how it ended."""

from typing import Any
from uuid import UUID

import orjson
import sqlalchemy as sa

from app.domain.jobs import Claim
from app.store.codec import CODEC, compress, decompress
from app.store.db import ReadTx, Tx
from app.store.statements import Statement
from app.store.tables import response_attempts as a

_of = Statement(
    sa.select(a)
    .where(a.c.tenant_id == sa.bindparam("tenant_id"), a.c.response_id == sa.bindparam("id"))
    .order_by(a.c.attempt)
)


def _ending(response_id: sa.ColumnElement[UUID]) -> sa.Update:
    return (
        sa.update(a)
        .where(
            a.c.tenant_id == sa.bindparam("tenant_id"),
            a.c.response_id == response_id,
            a.c.attempt == sa.bindparam("attempt"),
        )
        .values(
            ended_at=sa.func.coalesce(a.c.ended_at, sa.func.now()),
            reason=sa.func.coalesce(a.c.reason, sa.bindparam("reason", type_=sa.Text)),
            upstream_id=sa.func.coalesce(sa.bindparam("upstream_id", type_=sa.Text), a.c.upstream_id),
            detail=sa.func.coalesce(sa.bindparam("detail", type_=sa.LargeBinary), a.c.detail),
        )
    )


_end = Statement(_ending(sa.bindparam("id")))


def ending(ended: sa.CTE) -> sa.CTE:
    """The same as `end` does, for the statement that ends the response itself; takes what `values` gives.

    Args:
        ended: returns the response's `id` first.
    """
    return _ending(next(iter(ended.c))).cte("attempted")


async def list_of(tx: ReadTx, response_id: UUID) -> list[dict[str, Any]]:
    """Every attempt at a response, oldest first; none for a foreground response."""
    rows = await tx.fetch(_of, id=response_id)
    return [
        {
            "object": "response.attempt",
            "attempt": row["attempt"],
            "owner": row["owner"],
            "started_at": row["started_at"].timestamp(),
            "ended_at": row["ended_at"].timestamp() if row["ended_at"] else None,
            "reason": row["reason"],
            "upstream_id": row["upstream_id"],
            **_detail(row["detail"]),
        }
        for row in rows
    ]


async def end(
    tx: Tx, claim: Claim, reason: str, *, upstream_id: str | None = None, detail: bytes | None = None
) -> None:
    """Note how an attempt ended. The first word stands; what is learned later is added to it."""
    await tx.fetch(_end, id=claim.response_id, **values(claim, reason, upstream_id, detail))


def values(claim: Claim, reason: str, upstream_id: str | None, detail: bytes | None) -> dict[str, Any]:
    return {
        "attempt": claim.attempt,
        "reason": reason,
        "upstream_id": upstream_id,
        "detail": compress(detail) if detail else None,
    }


def _detail(packed: bytes | None) -> dict[str, Any]:
    """What an attempt had made that did not become the response: output and usage."""
    found: dict[str, Any] = orjson.loads(decompress(packed, CODEC)) if packed else {}
    return {"usage": found.get("usage"), "partial_output": found.get("output") or []}
