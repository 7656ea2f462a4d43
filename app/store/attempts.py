"""Attempts as they are read: who tried a response, when, and how it ended."""

from typing import Any
from uuid import UUID

import orjson
import sqlalchemy as sa

from app.store.codec import CODEC, decompress
from app.store.db import ReadTx
from app.store.statements import Statement
from app.store.tables import response_attempts as a

_of = Statement(
    sa.select(a)
    .where(a.c.tenant_id == sa.bindparam("tenant_id"), a.c.response_id == sa.bindparam("id"))
    .order_by(a.c.attempt)
)


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


def _detail(packed: bytes | None) -> dict[str, Any]:
    """What an attempt had made that did not become the response: output and usage."""
    found: dict[str, Any] = orjson.loads(decompress(packed, CODEC)) if packed else {}
    return {"usage": found.get("usage"), "partial_output": found.get("output") or []}
