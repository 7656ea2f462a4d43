"""Tenants: found or made by name, and which models theirs are. Only for whoever runs the server."""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from app.store.db import SystemTx
from app.store.statements import Statement
from app.store.tables import tenants as t

_p = sa.bindparam

_find = Statement(sa.select(t.c.id).where(t.c.name == _p("name", type_=sa.Text)))
_create = Statement(
    pg.insert(t)
    .values(name=_p("name", type_=sa.Text))
    .on_conflict_do_nothing(index_elements=[t.c.name])
    .returning(t.c.id)
)
_all = Statement(sa.select(t.c.id, t.c.name).order_by(t.c.id))
_set_models = Statement(
    sa.update(t).where(t.c.id == _p("id")).values(models=_p("models_", type_=pg.ARRAY(sa.Text)))
)


async def find_or_create(tx: SystemTx, name: str) -> int:
    """The id of the tenant of this name, new where there was none."""
    row = await tx.fetch_one(_find, name=name) or await tx.fetch_one(_create, name=name)
    # Somebody made it between the two statements: then it is there now.
    row = row or await tx.fetch_one(_find, name=name)
    if row is None:
        raise LookupError(name)
    return row["id"]


async def all_ids(tx: SystemTx) -> list[int]:
    """Every tenant there is."""
    return [row["id"] for row in await tx.fetch(_all)]


async def names(tx: SystemTx) -> dict[int, str]:
    """The names of all tenants."""
    return {row["id"]: row["name"] for row in await tx.fetch(_all)}


async def find(tx: SystemTx, name: str) -> int | None:
    """The id of the tenant of this name, if there is one."""
    row = await tx.fetch_one(_find, name=name)
    return row["id"] if row else None


async def set_models(tx: SystemTx, tenant_id: int, patterns: Sequence[str]) -> None:
    """Let the tenant name the models that match one of these globs, and no others."""
    await tx.fetch(_set_models, id=tenant_id, models_=list(patterns))
