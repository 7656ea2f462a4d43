"""The statements that find responses, put together from the filters that are given. `search` runs them.

They are planned for the values that they are run with. Every filter has an index in the order of the list;
of several, Postgres follows the narrowest and looks at what it finds there.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from app.domain.facts import Term
from app.domain.response import TERMINAL, Status
from app.domain.search import MAX_PAGE, Filters, first_id
from app.store.responses import COLUMNS, LISTED_COLUMNS
from app.store.statements import EPHEMERAL, ITEMS, Statement, storable
from app.store.tables import response_facts as f
from app.store.tables import response_terms as term
from app.store.tables import responses as t

_p = sa.bindparam
_RULE = re.compile(r"-{2,}")
_ids = _p("ids", type_=pg.ARRAY(pg.UUID))
_limit = _p("limit", type_=sa.BigInteger)
_one = sa.literal_column("1")

MAX_JOINED = 3
"""So many terms may drive a plan. Of ten the planner would weigh all orders for a second; those beyond are
asked of what the others leave.
"""

_UNFINISHED = sa.literal_column(str(int(min(TERMINAL))), sa.SmallInteger)

# The view that stands for the policy: see the migration.
_words = sa.table(
    "tenant_response_words",
    sa.column("tenant_id", sa.BigInteger),
    sa.column("id", pg.UUID),
    sa.column("words", pg.TSVECTOR),
)


def _set(**settings: str) -> Statement:
    true = sa.literal_column("true")
    return Statement(sa.select(*(sa.func.set_config(name, value, true) for name, value in settings.items())))


PLAN_FOR_VALUES = _set(plan_cache_mode="force_custom_plan")
"""Until the transaction ends."""

PLAN_FOR_PAGES = _set(plan_cache_mode="force_custom_plan", enable_seqscan="off")
"""The same; and no table is read as a whole, whatever the planner expects of words."""

ROWS = {
    has_items: Statement(
        sa.select(*(COLUMNS if has_items else LISTED_COLUMNS)).where(
            t.c.tenant_id == _p("tenant_id"), t.c.id == sa.func.any(_ids), t.c.deleted_at.is_(None)
        )
    )
    for has_items in (True, False)
}

_EDGE = {True: t.c.id < _p("edge"), False: t.c.id > _p("edge")}


def _recent(*, newest_first: bool) -> Statement:
    """The responses beyond the edge, whatever they are.

    The longest page stands in the statement: of a limit that it does not know the planner expects a tenth of
    the table, and would sort that. No more is read than is asked for.
    """
    most = (
        sa.select(*LISTED_COLUMNS)
        .where(
            t.c.tenant_id == _p("tenant_id"),
            t.c.mode < EPHEMERAL,
            t.c.mode < ITEMS,
            t.c.deleted_at.is_(None),
            _EDGE[newest_first],
        )
        .order_by(t.c.id.desc() if newest_first else t.c.id)
        .limit(sa.literal_column(str(MAX_PAGE + 1)))
        .subquery("most")
    )
    return Statement(sa.select(most).limit(_limit))


RECENT = {newest_first: _recent(newest_first=newest_first) for newest_first in (True, False)}

ENDS = {
    is_oldest: Statement(
        sa.select(f.c.id)
        .where(f.c.tenant_id == _p("tenant_id"))
        .order_by(f.c.id if is_oldest else f.c.id.desc())
        .limit(_one)
    )
    for is_oldest in (True, False)
}
"""The oldest response of all, and the newest."""

_EQUAL = {
    "model": f.c.model,
    "conversation": f.c.conversation_id,
    "previous": f.c.previous_id,
    "root": f.c.root_id,
    "user": f.c.user,
    "safety_identifier": f.c.safety_identifier,
    "error_code": f.c.error_code,
}


@dataclass(frozen=True, slots=True)
class Shape:
    """All that a statement's text depends on."""

    given: frozenset[str]
    pairs: int
    status: Status | None
    is_background: bool | None
    is_retried: bool
    is_newest_first: bool

    @classmethod
    def of(cls, filters: Filters, *, newest_first: bool) -> "Shape":
        return cls(
            given=frozenset(values(filters)),
            pairs=len(filters.metadata),
            status=filters.status,
            is_background=filters.is_background,
            is_retried=(filters.attempts_over or 0) >= 1,
            is_newest_first=newest_first,
        )

    def needs_facts(self, *known: str) -> bool:
        """Whether anything is asked for but the time and what is known already."""
        return bool(self.given - {"created_after", "created_before", *known})

    def order(self, query: sa.Select[Any], id_: sa.ColumnElement[Any]) -> sa.Select[Any]:
        return query.order_by(id_.desc() if self.is_newest_first else id_)

    def beyond(self, query: sa.Select[Any], ids: Sequence[sa.ColumnElement[Any]]) -> sa.Select[Any]:
        """What lies beyond the edge and within the time, of each table: else a join would read one from its
        beginning.
        """
        for id_ in ids:
            query = query.where(id_ < _p("edge") if self.is_newest_first else id_ > _p("edge"))
            if "created_after" in self.given:
                query = query.where(id_ >= _p("created_after"))
            if "created_before" in self.given:
                query = query.where(id_ < _p("created_before"))
        return query


def values(filters: Filters) -> dict[str, Any]:
    """The parameters of those filters that are given, by which statements know them."""
    given: dict[str, Any] = {
        field.name: getattr(filters, field.name) for field in fields(filters) if field.name != "metadata"
    }
    given["created_after"] = first_id(filters.created_after)
    given["created_before"] = first_id(filters.created_before)
    if filters.words is not None:
        # A ruled line would be that many negations, one within the other: Postgres has no room for those.
        given["words"] = _RULE.sub("-", filters.words)
    for place, (key, value) in enumerate(sorted(filters.metadata.items())):
        given |= {f"key_{place}": key, f"value_{place}": value}
    return {
        name: storable(value) if isinstance(value, str) else value
        for name, value in given.items()
        if value is not None
    }


@lru_cache(maxsize=1000)
def listed(shape: Shape) -> Statement:
    """The ids beyond the edge of those that the filters leave, but for words; by an index in their order."""
    query, ids = _of_facts(shape) if shape.needs_facts() else _of_rows()
    return Statement(shape.order(shape.beyond(query, ids), ids[0]).limit(_limit))


def _asked() -> sa.ColumnElement[Any]:
    return sa.func.websearch_to_tsquery(sa.literal_column("'simple'::regconfig"), _p("words", type_=sa.Text))


# Of a question without any word nothing is the answer, and not everything.
_has_words = sa.func.numnode(_asked()) > sa.literal_column("0")
# An offset keeps the planner from the index of words.
_these = (
    sa.select(_words.c.id, _words.c.words)
    .where(_words.c.tenant_id == _p("tenant_id"), _words.c.id == sa.func.any(_ids))
    .offset(sa.literal_column("0"))
    .subquery()
)
NEAR = Statement(sa.select(_these.c.id).where(_these.c.words.op("@@")(_asked()), _has_words))
"""Of some responses those that have the words, in no order."""


@lru_cache(maxsize=1000)
def far(shape: Shape) -> Statement:
    """Span after span (`timed_words`) the ids of those that have the words, by ix_response_words__words.

    Of these the filters are asked one by one, and the planner is kept from all else by offsets and limits:
    it has no idea how many there are in a span.
    """
    span = sa.func.unnest(_p("spans", type_=pg.ARRAY(sa.Text))).table_valued(sa.column("words", sa.Text))
    span = span.render_derived("span")
    # Two conditions and not one of both: so each is skipped to where the other has anything.
    both = sa.cast(span.c.words, pg.TSQUERY), _asked()
    hit = sa.select(_words.c.id).where(*(_words.c.words.op("@@")(each) for each in both), _has_words)
    hit = hit.correlate(span).offset(sa.literal_column("0")).lateral("hit")
    found = shape.beyond(sa.select(hit.c.id), [hit.c.id])
    if shape.needs_facts("words"):
        query, [id_, *_] = _of_facts(shape)
        fits = query.where(id_ == hit.c.id).correlate(hit).limit(_one).lateral("fits")
        found = found.join_from(hit, fits, sa.true())
    found = shape.order(found, hit.c.id).limit(_limit).lateral("found")
    return Statement(sa.select(found.c.id).join_from(span, found, sa.true()).limit(_limit))


def _of_rows() -> tuple[sa.Select[Any], list[Any]]:
    mine = t.c.tenant_id == _p("tenant_id"), t.c.mode < EPHEMERAL, t.c.mode < ITEMS
    return sa.select(t.c.id).where(*mine, t.c.deleted_at.is_(None)), [t.c.id]


def _of_facts(shape: Shape) -> tuple[sa.Select[Any], list[Any]]:
    """The ids of what the filters leave, but for words, and all columns that are equal to them."""
    query, ids = sa.select(f.c.id).where(f.c.tenant_id == _p("tenant_id")), list[Any]([f.c.id])
    for name in sorted(shape.given & _EQUAL.keys()):
        query = query.where(_EQUAL[name] == _p(name))
    if shape.is_background is not None:
        query = query.where(f.c.is_background if shape.is_background else ~f.c.is_background)
    if "attempts_over" in shape.given:
        # What the indexes are of: the planner draws no such conclusions.
        query = query.where(f.c.attempts > _p("attempts_over"), f.c.is_background)
    if shape.is_retried:
        query = query.where(f.c.attempts > _one)
    if shape.status is not None:
        query = _with_status(query, shape.status)
    return _with_terms(query, ids, shape), ids


def _with_status(query: sa.Select[Any], status: Status) -> sa.Select[Any]:
    """Facts know how a response has ended. Which of the others run, their own rows know; they are few."""
    if status in TERMINAL:
        return query.where(f.c.status == _p("status"))
    own = t.alias("own")
    return query.where(
        f.c.status < _UNFINISHED,
        own.c.tenant_id == _p("tenant_id"),
        own.c.id == f.c.id,
        own.c.status == _p("status"),
    )


def _with_terms(query: sa.Select[Any], ids: list[Any], shape: Shape) -> sa.Select[Any]:
    tools = [(Term.TOOL, _p("tool", type_=sa.Text), sa.literal_column("''"))] if "tool" in shape.given else []
    pairs = [(Term.METADATA, _p(f"key_{place}"), _p(f"value_{place}")) for place in range(shape.pairs)]
    for place, (kind, name, value) in enumerate([*tools, *pairs]):
        one = term.alias()
        is_it = sa.and_(
            one.c.tenant_id == _p("tenant_id"),
            one.c.id == f.c.id,
            one.c.kind == sa.literal_column(str(int(kind))),
            one.c.name == name,
            one.c.value == value,
        )
        if place < MAX_JOINED:
            query = query.where(is_it)
            ids.append(one.c.id)
        else:
            query = query.where(sa.select(_one).where(is_it).correlate(f).scalar_subquery().is_not(None))
    return query
