"""Items by their id. An item of ours names its row and its place, so it needs no index of its own."""

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from app import ids
from app.domain.items import split
from app.store.codec import decompress
from app.store.db import ReadTx, Tx
from app.store.statements import EPHEMERAL, ITEMS, Statement, storable
from app.store.tables import item_aliases as alias
from app.store.tables import responses as t

_p = sa.bindparam
_kept = sa.and_(
    t.c.tenant_id == _p("tenant_id"),
    t.c.deleted_at.is_(None),
    sa.or_(t.c.mode < EPHEMERAL, t.c.mode == ITEMS),
)
_by_ids = Statement(
    sa.select(t.c.id, t.c.codec, t.c["items"]).where(
        _kept, t.c.id == sa.any_(_p("ids", type_=pg.ARRAY(pg.UUID)))
    )
)


def _newest_by_alias() -> Statement:
    """For each id the newest stored turn that has it: by pk_item_aliases, however many conversations do."""
    wanted = (
        sa.func.unnest(_p("ids", type_=pg.ARRAY(sa.Text)))
        .table_valued(sa.column("item_id", sa.Text))
        .render_derived("wanted")
    )
    newest = (
        sa.select(alias.c.place, t.c.codec, t.c["items"])
        .join_from(alias, t, sa.and_(t.c.tenant_id == alias.c.tenant_id, t.c.id == alias.c.turn_id))
        .where(alias.c.tenant_id == _p("tenant_id"), alias.c.item_id == wanted.c.item_id, _kept)
        .order_by(alias.c.turn_id.desc())
        .limit(1)
        .lateral("newest")
    )
    return Statement(sa.select(newest).select_from(wanted.join(newest, sa.true())))


_by_aliases = _newest_by_alias()
_named = (
    sa.func.unnest(_p("ids", type_=pg.ARRAY(sa.Text)), _p("places", type_=pg.ARRAY(sa.Integer)))
    .table_valued(sa.column("item_id", sa.Text), sa.column("place", sa.Integer))
    .render_derived("named")
)
_known = (
    sa.select(alias.c.turn_id)
    .join_from(alias, t, sa.and_(t.c.tenant_id == alias.c.tenant_id, t.c.id == alias.c.turn_id))
    .where(alias.c.tenant_id == _p("tenant_id"), alias.c.item_id == _named.c.item_id, _kept)
)
_name = Statement(
    pg.insert(alias)
    .from_select(
        ["tenant_id", "turn_id", "place", "item_id"],
        sa.select(
            _p("tenant_id", type_=sa.BigInteger),
            _p("turn_id", type_=pg.UUID),
            _named.c.place,
            _named.c.item_id,
        ).where(sa.or_(_p("is_listed", type_=sa.Boolean), ~_known.exists())),
    )
    .on_conflict_do_nothing()
)


async def name(tx: Tx, turn_id: UUID, aliases: Sequence[tuple[int, str]], *, is_listed: bool) -> None:
    """Let items be found by ids that clients brought.

    An id that is sent again with every turn of a chain is kept once, so that a chat which replays its
    history does not store a growing list with each turn; in a conversation it can be there only once.
    It is kept again where the response that had it was deleted.
    """
    await tx.fetch(
        _name,
        turn_id=turn_id,
        places=[place for place, _ in aliases],
        ids=[storable(item_id) for _, item_id in aliases],
        is_listed=is_listed,
    )


async def find(tx: ReadTx, item_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The stored items with these ids; those that are unknown, deleted or foreign are left out (law L7)."""
    wanted = set(item_ids)
    found = await _find_ours(tx, wanted)
    if others := wanted - found.keys():
        found |= await _find_brought(tx, others)
    return {name: item for name, item in found.items() if name in wanted}


async def _find_ours(tx: ReadTx, item_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
    places = {name: place for name in item_ids if (place := ids.parse_item_id(name))}
    if not places:
        return {}
    rows = await tx.fetch(_by_ids, ids=list({row_id for row_id, _ in places.values()}))
    turns = {UUID(int=row["id"].int): split(decompress(row["items"], row["codec"])) for row in rows}
    found = {name: _at(turns.get(row_id, []), place) for name, (row_id, place) in places.items()}
    return {name: item for name, item in found.items() if item and item["id"] == name}


async def _find_brought(tx: ReadTx, item_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
    rows = await tx.fetch(_by_aliases, ids=[storable(name) for name in item_ids])
    found = [_at(split(decompress(row["items"], row["codec"])), row["place"]) for row in rows]
    return {item["id"]: item for item in found if item}


def _at(items: list[dict[str, Any]], place: int) -> dict[str, Any] | None:
    return items[place] if place < len(items) else None
