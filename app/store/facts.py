"""Facts of responses: what lists, lineage and statistics read. Written from the outbox, never by a create.

Everything is made anew from the response's own row, so that doing it twice is harmless; but a day's count
takes each response once, when it is first seen to have ended.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, TypeVar
from uuid import UUID

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from app.domain import facts
from app.domain.facts import Price, Term, Usage
from app.domain.items import split
from app.domain.jobs import Mode
from app.domain.response import TERMINAL, Status
from app.store.codec import decompress
from app.store.db import Row, SystemTx, Tx
from app.store.statements import EPHEMERAL, ITEMS, Statement, storable
from app.store.tables import audit_outbox as o
from app.store.tables import audit_records as r
from app.store.tables import response_facts as f
from app.store.tables import response_stats as s
from app.store.tables import response_terms as term
from app.store.tables import response_words as w
from app.store.tables import responses as t
from app.store.timed_words import words_of

_Each = TypeVar("_Each")

MOST_AT_ONCE = 100
MOST_BYTES_AT_ONCE = 1 << 20
"""Of rows, compressed, that are read at once."""

MOST_TEXT_AT_ONCE = 1 << 20
"""Of text that one statement makes words of: some tenths of a second."""

_p = sa.bindparam
_ids = _p("ids", type_=pg.ARRAY(pg.UUID))

_rows = Statement(
    sa.select(
        t.c.id, t.c.previous_id, t.c.chain_id, t.c.seq, t.c.fork_chains, t.c.fork_seqs, t.c.conversation_id,
        t.c.status, t.c.codec, t.c.model, t.c.body, t.c["items"], t.c.input_count, t.c.mode, t.c.attempt,
        t.c.finished_at, t.c.deleted_at, f.c.status.label("status_before"),
    )
    .select_from(t.outerjoin(f, sa.and_(f.c.tenant_id == t.c.tenant_id, f.c.id == t.c.id)))
    .where(t.c.tenant_id == _p("tenant_id"), t.c.id == sa.func.any(_ids), t.c.mode < EPHEMERAL)
)  # fmt: skip

_sizes = Statement(
    sa.select(
        t.c.id, (sa.func.octet_length(t.c.body) + sa.func.octet_length(t.c["items"])).label("bytes")
    ).where(t.c.tenant_id == _p("tenant_id"), t.c.id == sa.func.any(_ids))
)

_COLUMNS = tuple(column for column in f.c if column.name != "tenant_id")


def _unnested(columns: Iterable[sa.Column[Any]], name: str) -> Any:
    """Rows of parameters: one array for each column, named as several of it."""
    wanted = list(columns)
    # Not as it is: `key_id` is the transaction's own, whatever else is given for it.
    arrays = (_p(f"{column.name}s", type_=pg.ARRAY(column.type)) for column in wanted)
    values = sa.func.unnest(*arrays).table_valued(*(sa.column(column.name, column.type) for column in wanted))
    return values.render_derived(name)


def _put_facts() -> Statement:
    new = _unnested(_COLUMNS, "new")
    insert = pg.insert(f).from_select(
        ["tenant_id", *(column.name for column in _COLUMNS)],
        sa.select(_p("tenant_id", type_=sa.BigInteger), *new.c),
    )
    changed: dict[str, Any] = {
        column.name: insert.excluded[column.name] for column in _COLUMNS if column.name != "id"
    }
    # Who created it is known from the first note alone.
    changed["key_id"] = sa.func.coalesce(f.c.key_id, insert.excluded.key_id)
    return Statement(insert.on_conflict_do_update(index_elements=[f.c.tenant_id, f.c.id], set_=changed))


_put = _put_facts()
_terms = _unnested((term.c.id, term.c.kind, term.c.name, term.c.value), "new")
_put_terms = Statement(
    pg.insert(term)
    .from_select(
        ["tenant_id", "id", "kind", "name", "value"],
        sa.select(_p("tenant_id", type_=sa.BigInteger), *_terms.c),
    )
    .on_conflict_do_nothing()
)
_texts = (
    sa.func.unnest(_ids, _p("texts", type_=pg.ARRAY(sa.Text)), _p("own_words", type_=pg.ARRAY(sa.Text)))
    .table_valued(sa.column("id", pg.UUID), sa.column("text", sa.Text), sa.column("own", sa.Text))
    .render_derived("new")
)


def _put_all_words() -> Statement:
    own = sa.func.array_to_tsvector(sa.func.string_to_array(_texts.c.own, " "))
    words = sa.func.to_tsvector(sa.literal_column("'simple'::regconfig"), _texts.c.text).op("||")(own)
    insert = pg.insert(w).from_select(
        ["tenant_id", "id", "words"], sa.select(_p("tenant_id", type_=sa.BigInteger), _texts.c.id, words)
    )
    return Statement(
        insert.on_conflict_do_update(
            index_elements=[w.c.tenant_id, w.c.id], set_={"words": insert.excluded.words}
        )
    )


_put_words = _put_all_words()
_forget = [
    Statement(sa.delete(each).where(each.c.tenant_id == _p("tenant_id"), each.c.id == sa.func.any(_ids)))
    for each in (f, term, w)
]
_SUMS = ("count", "input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens", "cost_nanos")
_counted = _unnested((c for c in s.c if c.name != "tenant_id"), "new")


def _count_all() -> Statement:
    insert = pg.insert(s).from_select(
        ["tenant_id", *(column.name for column in _counted.c)],
        sa.select(_p("tenant_id", type_=sa.BigInteger), *_counted.c),
    )
    sums = {name: s.c[name] + insert.excluded[name] for name in _SUMS}
    keys = [s.c.tenant_id, s.c.day, s.c.model, s.c.status, s.c.duration_step]
    return Statement(insert.on_conflict_do_update(index_elements=keys, set_=sums))


_count = _count_all()


def _note_adopted() -> Statement:
    """Note what an earlier release has stored while this one was being installed: it left no note.

    Most responses have facts, which two primary keys tell side by side. Of those that have none, some wait
    in the outbox, and some could not be read.
    """
    lacking = (
        sa.select(t.c.tenant_id, t.c.id)
        .where(
            t.c.tenant_id == _p("tenant_id"),
            t.c.id > _p("floor"),
            t.c.mode < EPHEMERAL,
            t.c.mode < ITEMS,
            t.c.deleted_at.is_(None),
            ~sa.exists().where(f.c.tenant_id == t.c.tenant_id, f.c.id == t.c.id, f.c.id > _p("floor")),
        )
        .cte("lacking")
        .prefix_with("materialized", dialect="postgresql")
    )
    noted, recorded = (
        sa.exists().where(each.c.tenant_id == lacking.c.tenant_id, each.c.subject == lacking.c.id)
        for each in (o, r)
    )
    return Statement(
        sa.insert(o).from_select(
            ["tenant_id", "subject", "action", "data"],
            sa.select(
                lacking.c.tenant_id,
                lacking.c.id,
                _p("action", type_=sa.SmallInteger),
                sa.literal_column("'{}'"),
            )
            .where(~noted, ~recorded)
            .order_by(lacking.c.id),
        )
    )


_adopt = _note_adopted()


def _note_ended() -> Statement:
    """Note what an earlier release has ended; by ix_response_facts__status, where few have not ended."""
    waiting = sa.exists().where(o.c.tenant_id == f.c.tenant_id, o.c.subject == f.c.id)
    return Statement(
        sa.insert(o).from_select(
            ["tenant_id", "subject", "action", "data"],
            sa.select(f.c.tenant_id, f.c.id, _p("action", type_=sa.SmallInteger), sa.literal_column("'{}'"))
            .select_from(f.join(t, sa.and_(t.c.tenant_id == f.c.tenant_id, t.c.id == f.c.id)))
            .where(f.c.tenant_id == _p("tenant_id"), f.c.status < _ENDED, t.c.status >= _ENDED, ~waiting),
        )
    )


_ENDED = sa.literal_column(str(int(min(TERMINAL))), sa.SmallInteger)
_adopt_ended = _note_ended()


@dataclass(frozen=True, slots=True)
class Found:
    """A response as its row tells of it, before it is put anywhere; its content is left behind."""

    row: Mapping[str, Any]
    usage: Usage
    terms: set[tuple[Term, str, str]]
    text: str
    told: Mapping[str, Any]
    """What the response object says of itself."""

    @property
    def id(self) -> UUID:
        return UUID(int=self.row["id"].int)

    @property
    def status(self) -> Status:
        return Status(self.row["status"])

    @property
    def duration_ms(self) -> int | None:
        """From its creation by the clock of whoever minted its id, to its end by Postgres's."""
        ended: datetime | None = self.row["finished_at"]
        return max(0, int(ended.timestamp() * 1000) - (self.id.int >> 80)) if ended else None

    @property
    def is_deleted(self) -> bool:
        return self.row["deleted_at"] is not None

    @property
    def is_first_seen_ended(self) -> bool:
        before = self.row["status_before"]
        return self.status in TERMINAL and (before is None or Status(before) not in TERMINAL)


async def put(tx: Tx, found: Sequence[Found], keys: Mapping[UUID, UUID | None]) -> None:
    """Replace what is known of these responses; `keys` are those that they were created with."""
    rows = [_values(each, keys.get(each.id)) for each in found]
    await tx.fetch(_put, **{f"{column.name}s": [row[column.name] for row in rows] for column in _COLUMNS})
    terms = [(each.id, *a_term) for each in found for a_term in each.terms]
    await tx.fetch(
        _put_terms,
        ids=[one[0] for one in terms],
        kinds=[int(one[1]) for one in terms],
        names=[storable(one[2]) for one in terms],
        values=[storable(one[3]) for one in terms],
    )
    for part in _parts(found, lambda each: len(each.text), MOST_TEXT_AT_ONCE):
        await tx.fetch(
            _put_words,
            ids=[each.id for each in part],
            texts=[storable(each.text) for each in part],
            own_words=[" ".join(words_of(tx.tenant_id, each.id)) for each in part],
        )
    await count(tx, found)


async def portions(tx: Tx, response_ids: Sequence[UUID]) -> list[list[UUID]]:
    """The same ids in groups that may be read at once, however large their responses are."""
    rows = await tx.fetch(_sizes, ids=list(response_ids))
    sizes = {UUID(int=row["id"].int): row["bytes"] for row in rows}
    return _parts(response_ids, lambda each: sizes.get(each, 0), MOST_BYTES_AT_ONCE)


async def read(tx: Tx, response_ids: Sequence[UUID], prices: Mapping[str, Price]) -> list[Found]:
    """What the rows of these responses tell, of deleted ones too; nothing of those that are gone.

    Raises:
        ValueError: a row cannot be read.
    """
    return [_found(row, prices) for row in await tx.fetch(_rows, ids=list(response_ids))]


async def forget(tx: Tx, response_ids: Sequence[UUID]) -> None:
    """Find these responses no more. What they came to stays counted: it was spent."""
    for statement in _forget:
        await tx.fetch(statement, ids=list(response_ids))


async def adopt(tx: SystemTx, tenant_id: int, floor: UUID, action: int) -> None:
    """Note every response from `floor` on of which nothing is known, and all that have ended without a
    note. Not for two at once: both would.
    """
    for statement in (_adopt, _adopt_ended):
        await tx.of(tenant_id).fetch(statement, floor=floor, action=action)


def _parts(whole: Sequence[_Each], size: Callable[[_Each], int], most: int) -> list[list[_Each]]:
    """The same in their order, in parts of no more than that, or of one that is larger."""
    parts, left = list[list[_Each]](), 0
    for each in whole:
        left -= size(each)
        if not parts or left < 0 or len(parts[-1]) == MOST_AT_ONCE:
            parts.append([])
            left = most - size(each)
        parts[-1].append(each)
    return parts


def _found(row: Row, prices: Mapping[str, Price]) -> Found:
    body = orjson.loads(decompress(row["body"], row["codec"]))
    items = split(decompress(row["items"], row["codec"]))
    usage = facts.usage_of(body, facts.price_of(row["model"], prices))
    terms = facts.terms_of(body, items[row["input_count"] :])
    told = {name: body.get(name) for name in ("user", "safety_identifier", "error")}
    light = {name: value for name, value in row.items() if name not in {"body", "items"}}
    return Found(light, usage, terms, facts.text_of(items), told)


def _values(found: Found, key_id: UUID | None) -> dict[str, Any]:
    row, usage, body = found.row, found.usage, found.told
    error = body.get("error")
    return {
        "id": found.id,
        "previous_id": row["previous_id"],
        "root_id": _root(row),
        "conversation_id": row["conversation_id"],
        "key_id": key_id,
        "input_tokens": usage.input_tokens,
        "cached_tokens": usage.cached_tokens,
        "output_tokens": usage.output_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "cost_nanos": usage.cost_nanos,
        "duration_ms": found.duration_ms,
        "depth": row["seq"],
        "status": row["status"],
        "attempts": row["attempt"],
        "is_background": Mode.BACKGROUND in Mode(row["mode"]),
        "model": _model(row),
        "user": _text(body.get("user")),
        "safety_identifier": _text(body.get("safety_identifier")),
        "error_code": _text(error.get("code")) if isinstance(error, dict) else None,
    }


def _root(row: Mapping[str, Any]) -> UUID:
    """The line that its own comes from is named by its first turn, or by its conversation."""
    return row["fork_chains"][0] if row["fork_chains"] else row["chain_id"]


def _model(row: Mapping[str, Any]) -> str:
    return row["model"][: facts.MAX_NAME_CHARS]


def _text(value: Any) -> str | None:
    return storable(value[: facts.MAX_NAME_CHARS]) if isinstance(value, str) else None


async def count(tx: Tx, found: Sequence[Found]) -> None:
    """Count those that are seen to have ended for the first time."""
    counts: Counter[tuple[tuple[date, int, int, str], str]] = Counter()
    for each in found:
        if not each.is_first_seen_ended:
            continue
        day = datetime.fromtimestamp((each.id.int >> 80) / 1000, UTC).date()
        key = (day, int(each.status), facts.duration_step(each.duration_ms or 0), _model(each.row))
        usage = each.usage
        sums = (
            1, usage.input_tokens, usage.cached_tokens, usage.output_tokens, usage.reasoning_tokens,
            usage.cost_nanos or 0,
        )  # fmt: skip
        for name, value in zip(_SUMS, sums, strict=True):
            counts[key, name] += value
    # Sorted, so that two who count at once never wait for each other in a circle.
    keys = sorted({key for key, _ in counts})
    if not keys:
        return
    await tx.fetch(
        _count,
        **{
            f"{name}s": [key[place] for key in keys]
            for place, name in enumerate(("day", "status", "duration_step", "model"))
        },
        **{f"{name}s": [counts[key, name] for key in keys] for name in _SUMS},
    )
