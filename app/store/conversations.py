"""Conversations as rows of their own: made, read, listed, described and deleted. Their items are
`conversation_items`, their lock is `conversation_locks`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from app.domain.conversation import Conversation
from app.domain.turn import Place
from app.store import lineage
from app.store.conversation_locks import FREE, IS_FREE
from app.store.db import ReadTx, Row, Tx
from app.store.statements import Statement
from app.store.tables import conversations as c

_p = sa.bindparam
_mine = sa.and_(c.c.tenant_id == _p("tenant_id"), c.c.deleted_at.is_(None))
_this = sa.and_(_mine, c.c.id == _p("id"))
# As text: the driver would otherwise want it encoded, and would give it back as text all the same.
_metadata = sa.cast(_p("metadata", type_=sa.Text), pg.JSONB)
_shown = (c.c.id, sa.cast(c.c.metadata, sa.Text).label("metadata"))

_insert = Statement(
    sa.insert(c).values(
        tenant_id=_p("tenant_id"),
        id=_p("id"),
        next_seq=_p("next_seq"),
        fork_chains=_p("fork_chains"),
        fork_seqs=_p("fork_seqs"),
        metadata=_metadata,
    )
)
_get = Statement(sa.select(*_shown).where(_this))
_update = Statement(sa.update(c).where(_this).values(metadata=_metadata).returning(*_shown))
_delete = Statement(sa.update(c).where(_this).values(deleted_at=sa.func.now()).returning(c.c.id))
_place = sa.select(c.c.id, c.c.next_seq, c.c.fork_chains, c.c.fork_seqs, IS_FREE.label("is_free")).where(
    _this
)
_find = Statement(_place)
_lock = Statement(_place.with_for_update())
_advance = Statement(sa.update(c).where(_this).values(next_seq=c.c.next_seq + 1, **FREE))


def _page(*, newest_first: bool, is_filtered: bool) -> Statement:
    """A page after a cursor, by the primary key; the filter is served by ix_conversations__metadata."""
    beyond = c.c.id < _p("after") if newest_first else c.c.id > _p("after")
    query = sa.select(*_shown).where(_mine, beyond)
    if is_filtered:
        query = query.where(c.c.metadata.contains(_metadata))
    return Statement(query.order_by(c.c.id.desc() if newest_first else c.c.id.asc()).limit(_p("limit")))


_pages = {
    (newest, filtered): _page(newest_first=newest, is_filtered=filtered)
    for newest in (True, False)
    for filtered in (True, False)
}
_FIRST, _LAST = UUID(int=0), UUID(int=(1 << 128) - 1)


@dataclass(frozen=True, slots=True)
class Line:
    """Where a conversation's turns are."""

    last: Place
    """Of its last turn; before the first one its `seq` is -1."""
    is_free: bool
    """Whether no response runs in it."""


async def insert(tx: Tx, conversation: Conversation, first: Place) -> None:
    """Store a new conversation whose next turn will stand at `first`."""
    await tx.fetch(
        _insert,
        id=conversation.id,
        next_seq=first.seq,
        metadata=_encode(conversation.metadata),
        **lineage.encode_forks(first.forks),
    )


async def get(tx: ReadTx, conversation_id: UUID) -> Conversation | None:
    """The conversation, or None if there is none, it was deleted, or it is another tenant's (law L7)."""
    row = await tx.fetch_one(_get, id=conversation_id)
    return _decode(row) if row else None


async def update(tx: Tx, conversation_id: UUID, metadata: Mapping[str, str]) -> Conversation | None:
    """Replace the whole metadata; None as for `get`."""
    row = await tx.fetch_one(_update, id=conversation_id, metadata=_encode(metadata))
    return _decode(row) if row else None


async def delete(tx: Tx, conversation_id: UUID) -> bool:
    """Hide the conversation. What was said in it stays with the responses that were made there.

    A response that runs in it keeps its lock, and ends as one without a conversation would.
    """
    return await tx.fetch_one(_delete, id=conversation_id) is not None


async def page(
    tx: ReadTx, *, limit: int, newest_first: bool, after: UUID | None, metadata: Mapping[str, str]
) -> Sequence[Conversation]:
    """Up to `limit` conversations after the cursor, in the order in which they were made, that have all
    these pairs in their metadata.
    """
    start = after or (_LAST if newest_first else _FIRST)
    rows = await tx.fetch(
        _pages[newest_first, bool(metadata)], after=start, limit=limit, metadata=_encode(metadata)
    )
    return [_decode(row) for row in rows]


async def find(tx: ReadTx, conversation_id: UUID) -> Line | None:
    """Where its turns are; None as for `get`."""
    row = await tx.fetch_one(_find, id=conversation_id)
    return _line(row) if row else None


async def lock(tx: Tx, conversation_id: UUID) -> Line | None:
    """The same, kept from changing until the transaction ends."""
    row = await tx.fetch_one(_lock, id=conversation_id)
    return _line(row) if row else None


async def advance(tx: Tx, conversation_id: UUID) -> None:
    """Count one more turn of a locked, free conversation; a lease that has run out ends with it."""
    await tx.fetch(_advance, id=conversation_id)


def _line(row: Row) -> Line:
    return Line(Place(UUID(int=row["id"].int), row["next_seq"] - 1, lineage.forks(row)), row["is_free"])


def _encode(metadata: Mapping[str, str]) -> str:
    return orjson.dumps(dict(metadata)).decode()


def _decode(row: Row) -> Conversation:
    return Conversation(UUID(int=row["id"].int), orjson.loads(row["metadata"]))
