"""How a tree of responses branches, for whoever walks it. The families themselves are in `relatives`.

All of it by ix_response_facts__previous_id; what was deleted is not counted.
"""

from collections.abc import Collection
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from app.store.db import ReadTx
from app.store.statements import Statement
from app.store.tables import response_facts as f

_p = sa.bindparam
_mine = f.c.tenant_id == _p("tenant_id")


def _count() -> Statement:
    """Of each response its children, counted no further than that."""
    asked = sa.func.unnest(_p("ids", type_=pg.ARRAY(pg.UUID))).table_valued(sa.column("id", pg.UUID))
    asked = asked.render_derived("asked")
    some = sa.select(f.c.id).where(_mine, f.c.previous_id == asked.c.id).limit(_p("most"))
    child = some.correlate(asked).subquery("child")
    count = sa.select(sa.func.count()).select_from(child).scalar_subquery().label("count")
    return Statement(sa.select(asked.c.id, count))


_children = _count()
_before = Statement(
    sa.select(f.c.id)
    .where(_mine, f.c.previous_id == _p("parent"), f.c.id < _p("id"))
    .order_by(f.c.id.desc())
    .offset(_p("places"))
    .limit(sa.literal_column("1"))
)


async def child_counts(tx: ReadTx, response_ids: Collection[UUID], *, most: int) -> dict[UUID, int]:
    """How many responses are chained on each of these, but for those with none; `most` may be more."""
    rows = await tx.fetch(_children, ids=list(response_ids), most=most)
    return {UUID(int=row["id"].int): row["count"] for row in rows if row["count"]}


async def places_before(tx: ReadTx, parent: UUID, child: UUID, *, places: int) -> UUID | None:
    """The cursor after which a list of the parent's children begins so many places before this one.

    None where that is the beginning.
    """
    row = await tx.fetch_one(_before, parent=parent, id=child, places=places)
    return UUID(int=row["id"].int) if row else None
