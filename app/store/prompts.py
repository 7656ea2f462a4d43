"""Prompts and their versions. A version is put once and never changed."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from app.domain.prompts import MAX_PROMPTS, MAX_VERSIONS, Prompt, Template, Version
from app.store.db import ReadTx, Row, Tx
from app.store.prompt_tables import prompt_versions as v
from app.store.prompt_tables import prompts as p
from app.store.statements import Statement
from app.store.turn_taking import alone

_p = sa.bindparam
_alone = alone(p)
_mine = p.c.tenant_id == _p("tenant_id")
_is_there = sa.and_(_mine, ~p.c.is_deleted)
_this = sa.and_(_is_there, p.c.id == _p("id"))
_versions = sa.and_(v.c.tenant_id == _p("tenant_id"), v.c.prompt_key == _p("key"))
# As text: the driver would otherwise want it encoded, and would give it back as text all the same.
_metadata = sa.cast(_p("metadata", type_=sa.Text), pg.JSONB)
_shown = (p.c.key, p.c.id, p.c.name, p.c.latest, p.c.pinned, sa.cast(p.c.metadata, sa.Text).label("metadata"))

_new = {name: _p(name, type_=p.c[name].type) for name in ("tenant_id", "key", "id", "name")}
_few_enough = sa.select(sa.func.count()).select_from(p).where(
    _is_there
).scalar_subquery() < sa.literal_column(str(MAX_PROMPTS), sa.Integer)
_insert = Statement(
    pg.insert(p)
    .from_select(
        [*_new, "metadata", "latest"],
        sa.select(*_new.values(), _metadata, sa.literal_column("1", sa.Integer)).where(_few_enough),
    )
    .on_conflict_do_nothing(index_elements=[p.c.tenant_id, p.c.id])
    .returning(p.c.key)
)
_insert_version = Statement(
    sa.insert(v)
    .values(tenant_id=_p("tenant_id"), prompt_key=_p("key"), number=_p("number"), template=_p("template"))
    .returning(v.c.number, v.c.created_at, v.c.template)
)
_advance = Statement(
    sa.update(p)
    .where(_this, p.c.latest < sa.literal_column(str(MAX_VERSIONS), sa.Integer))
    .values(latest=p.c.latest + 1)
    .returning(p.c.key, p.c.latest)
)
_is_deleted = Statement(sa.select(p.c.is_deleted).where(_mine, p.c.id == _p("id")))
_lock = Statement(sa.select(*_shown).where(_this).with_for_update())
_update = Statement(
    sa.update(p)
    .where(_this)
    .values(name=_p("name"), pinned=_p("pinned"), metadata=_metadata)
    .returning(*_shown)
)
_delete = Statement(
    sa.update(p)
    .where(_this)
    .values(is_deleted=sa.true(), name="", pinned=None, metadata=sa.literal_column("'{}'", pg.JSONB))
    .returning(p.c.key)
)
_delete_versions = Statement(sa.delete(v).where(_versions))
# One row where there is such a prompt, whose version is null where there is no such version.
_wanted = sa.func.coalesce(_p("number", type_=sa.Integer), p.c.pinned, p.c.latest)
_find = Statement(
    sa.select(*_shown, v.c.number, v.c.created_at, v.c.template)
    .join_from(
        p,
        v,
        sa.and_(v.c.tenant_id == p.c.tenant_id, v.c.prompt_key == p.c.key, v.c.number == _wanted),
        isouter=True,
    )
    .where(_this)
)


def _page(*, newest_first: bool) -> Statement:
    """A page after a cursor, by uq_prompts__key."""
    beyond = p.c.key < _p("after") if newest_first else p.c.key > _p("after")
    order = p.c.key.desc() if newest_first else p.c.key.asc()
    return Statement(sa.select(*_shown).where(_is_there, beyond).order_by(order).limit(_p("limit")))


def _page_of_versions(*, newest_first: bool) -> Statement:
    """The same of one prompt's versions, by the primary key."""
    beyond = v.c.number < _p("after") if newest_first else v.c.number > _p("after")
    order = v.c.number.desc() if newest_first else v.c.number.asc()
    shown = sa.select(v.c.number, v.c.created_at, v.c.template)
    return Statement(shown.where(_versions, beyond).order_by(order).limit(_p("limit")))


_pages = {newest: _page(newest_first=newest) for newest in (True, False)}
_pages_of_versions = {newest: _page_of_versions(newest_first=newest) for newest in (True, False)}
_FIRST, _LAST = UUID(int=0), UUID(int=(1 << 128) - 1)
MAX_NUMBER = 2**31 - 1
"""Of versions: what the column holds."""


async def create(tx: Tx, prompt: Prompt, template: Template) -> Version | None:
    """Store a new prompt with its first version; None if the tenant has, or had, one of this id, or has
    `MAX_PROMPTS`.
    """
    await tx.fetch(_alone)
    new = await tx.fetch_one(
        _insert, key=prompt.key, id=prompt.id, name=prompt.name, metadata=_encode(prompt.metadata)
    )
    return await _put(tx, prompt.key, 1, template) if new else None


async def extend(tx: Tx, prompt_id: str, template: Template) -> tuple[UUID, Version] | None:
    """Add a version, which is the newest from then on; None if there is no such prompt (law L7),
    or it has `MAX_VERSIONS`.

    Of two at a time the second waits for the first, so the numbers have no gaps.
    """
    row = await tx.fetch_one(_advance, id=prompt_id)
    if row is None:
        return None
    key = UUID(int=row["key"].int)
    return key, await _put(tx, key, row["latest"], template)


async def is_deleted(tx: ReadTx, prompt_id: str) -> bool | None:
    """Whether the prompt of this id was deleted; None if there never was one."""
    row = await tx.fetch_one(_is_deleted, id=prompt_id)
    return row["is_deleted"] if row else None


async def find(tx: ReadTx, prompt_id: str, number: int | None = None) -> tuple[Prompt, Version | None] | None:
    """A prompt and one of its versions, by default its default; None in place of what is not there."""
    row = await tx.fetch_one(_find, id=prompt_id, number=number)
    if row is None:
        return None
    return _prompt(row), None if row["number"] is None else _version(row)


async def lock(tx: Tx, prompt_id: str) -> Prompt | None:
    """A prompt, kept from changing until the transaction ends."""
    row = await tx.fetch_one(_lock, id=prompt_id)
    return _prompt(row) if row else None


async def update(tx: Tx, prompt: Prompt) -> Prompt | None:
    """Replace name, metadata and pinned version, which must be one that is there."""
    row = await tx.fetch_one(
        _update,
        id=prompt.id,
        name=prompt.name,
        pinned=prompt.pinned,
        metadata=_encode(prompt.metadata),
    )
    return _prompt(row) if row else None


async def delete(tx: Tx, prompt_id: str) -> UUID | None:
    """Remove a prompt and its versions for good; its key, if there was one. Only its id stays taken: numbers
    of versions would begin anew, and one that a program knows would be another text.
    """
    row = await tx.fetch_one(_delete, id=prompt_id)
    if row is None:
        return None
    await tx.fetch(_delete_versions, key=row["key"])
    return UUID(int=row["key"].int)


async def page(tx: ReadTx, *, limit: int, newest_first: bool, after: UUID | None) -> Sequence[Prompt]:
    """Up to `limit` prompts after the cursor, in the order in which they were made."""
    start = after or (_LAST if newest_first else _FIRST)
    return [_prompt(row) for row in await tx.fetch(_pages[newest_first], after=start, limit=limit)]


async def versions(
    tx: ReadTx, key: UUID, *, limit: int, newest_first: bool, after: int | None
) -> Sequence[Version]:
    """Up to `limit` versions of a prompt after that number."""
    start = after if after is not None else MAX_NUMBER if newest_first else 0
    rows = await tx.fetch(_pages_of_versions[newest_first], key=key, after=start, limit=limit)
    return [_version(row) for row in rows]


async def _put(tx: Tx, key: UUID, number: int, template: Template) -> Version:
    text = orjson.dumps(dict(template)).decode()
    [row] = await tx.fetch(_insert_version, key=key, number=number, template=text)
    return _version(row)


def _encode(metadata: Mapping[str, Any]) -> str:
    return orjson.dumps(dict(metadata)).decode()


def _prompt(row: Row) -> Prompt:
    return Prompt(
        key=UUID(int=row["key"].int),
        id=row["id"],
        name=row["name"],
        metadata=orjson.loads(row["metadata"]),
        latest=row["latest"],
        pinned=row["pinned"],
    )


def _version(row: Row) -> Version:
    return Version(row["number"], row["created_at"], orjson.loads(row["template"]))
