"""Items by their id. An item of ours names its row and its place, so it needs no index of its own."""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from app import ids
from app.domain.items import split
from app.store.codec import decompress
from app.store.db import ReadTx
from app.store.statements import EPHEMERAL, Statement
from app.store.tables import responses as t

_by_ids = Statement(
    sa.select(t.c.id, t.c.codec, t.c["items"]).where(
        t.c.tenant_id == sa.bindparam("tenant_id"),
        t.c.id == sa.any_(sa.bindparam("ids", type_=pg.ARRAY(pg.UUID))),
        t.c.deleted_at.is_(None),
        t.c.mode < EPHEMERAL,
    )
)


async def find(tx: ReadTx, item_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The stored items with these ids; those that are unknown, deleted or foreign are left out (law L7)."""
    places = {name: place for name in item_ids if (place := ids.parse_item_id(name))}
    if not places:
        return {}
    rows = await tx.fetch(_by_ids, ids=list({row_id for row_id, _ in places.values()}))
    turns: dict[UUID, list[dict[str, Any]]] = {
        UUID(int=row["id"].int): split(decompress(row["items"], row["codec"])) for row in rows
    }
    found = {name: _at(turns.get(row_id, []), place) for name, (row_id, place) in places.items()}
    return {name: item for name, item in found.items() if item and item["id"] == name}


def _at(items: list[dict[str, Any]], place: int) -> dict[str, Any] | None:
    return items[place] if place < len(items) else None
