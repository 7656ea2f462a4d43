"""The context walk: every turn before a new one, in one round trip at any depth."""

from collections.abc import Sequence
from operator import itemgetter
from typing import Any
from uuid import UUID

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from app.domain.response import Status
from app.domain.turn import Ancestry, Continuation, Place
from app.store.codec import decompress
from app.store.db import ReadTx, Row
from app.store.statements import EPHEMERAL, Statement
from app.store.tables import responses as t

_p = sa.bindparam
_by_seq = itemgetter("seq")


def _turns_of(line: sa.FromClause, is_parent: sa.ColumnElement[bool]) -> Statement:
    """Each line up to where it was left: one index range scan a line, almost always exactly one.

    Served by uq_responses__line. Rows of one line come in its order; which line comes first is not said.
    """
    turn = (
        sa.select(
            t.c.seq, t.c.chain_id, t.c.status, t.c.codec, t.c["items"], t.c.continuation,
            # Only the parent's are looked at, and on a line of many forks they are long.
            sa.case((is_parent, t.c.fork_chains)).label("fork_chains"),
            sa.case((is_parent, t.c.fork_seqs)).label("fork_seqs"),
        )
        .where(t.c.tenant_id == _p("tenant_id"), t.c.chain_id == line.c.chain, t.c.seq <= line.c.upto)
        # A subquery that sorts cannot be merged into the join, so the planner has to take one line
        # after the other, by the index, however few lines it believes there are.
        .order_by(t.c.seq)
        .lateral("turn")
    )  # fmt: skip
    return Statement(sa.select(turn).select_from(line.join(turn, sa.true())))


def _walk() -> Statement:
    """From a parent that may still be chained on (by pk_responses), through the lines it came from."""
    tip = (
        sa.select(t.c.chain_id, t.c.seq, t.c.fork_chains, t.c.fork_seqs)
        .where(
            t.c.tenant_id == _p("tenant_id"),
            t.c.id == _p("id"),
            t.c.deleted_at.is_(None),
            t.c.mode < EPHEMERAL,
        )
        .cte("tip")
        .prefix_with("materialized", dialect="postgresql")
    )
    forks = _unnested(tip.c.fork_chains, tip.c.fork_seqs)
    own = sa.select(tip.c.chain_id.label("chain"), tip.c.seq.label("upto"))
    lines = sa.union_all(own, sa.select(forks.c.chain, forks.c.upto).select_from(tip, forks))
    return _turns_of(lines.subquery("line"), t.c.id == _p("id"))


def _unnested(chains: Any, seqs: Any) -> sa.TableValuedAlias:
    columns = sa.column("chain", pg.UUID), sa.column("upto", sa.Integer)
    return sa.func.unnest(chains, seqs).table_valued(*columns).render_derived("line")


_ancestry = _walk()
_before = _turns_of(
    _unnested(_p("chains", type_=pg.ARRAY(pg.UUID)), _p("seqs", type_=pg.ARRAY(sa.Integer))),
    t.c.id == _p("id"),
)


async def before(tx: ReadTx, parent: UUID, here: Place) -> Ancestry | None:
    """All turns before a stored one, whether or not its parent could still be chained on today."""
    lines = ((here.chain_id, here.seq - 1), *here.forks)
    found = await tx.fetch(
        _before, id=parent, chains=[chain for chain, _ in lines], seqs=[seq for _, seq in lines]
    )
    return _gather(parent, found)


async def ancestry(tx: ReadTx, parent: UUID) -> Ancestry | None:
    """All turns from the root to `parent`, or None if that is unknown, deleted or another tenant's."""
    return _gather(parent, await tx.fetch(_ancestry, id=parent))


def _gather(parent: UUID, found: Sequence[Row]) -> Ancestry | None:
    if not found:
        return None
    # Sorted here, where it costs next to nothing: Postgres would copy every row to do it.
    rows = sorted(found, key=_by_seq)
    last = rows[-1]
    return Ancestry(
        parent=parent,
        place=place(last),
        status=Status(last["status"]),
        turns=tuple(
            (decompress(row["items"], row["codec"]), decode_continuation(row["continuation"])) for row in rows
        ),
    )


def place(row: Row) -> Place:
    forks = zip(row["fork_chains"] or (), row["fork_seqs"] or (), strict=True)
    return Place(row["chain_id"], row["seq"], tuple(forks))


def encode(place: Place) -> dict[str, Any]:
    """The columns that say where a turn stands."""
    return {
        "chain_id": place.chain_id,
        "seq": place.seq,
        "fork_chains": [chain for chain, _ in place.forks] or None,
        "fork_seqs": [seq for _, seq in place.forks] or None,
    }


def encode_continuation(value: Continuation | None) -> bytes | None:
    if value is None:
        return None
    return orjson.dumps([dict(value.open_calls), value.upstream, dict(value.upstream_ids)])


def decode_continuation(data: bytes | None) -> Continuation | None:
    return Continuation(*orjson.loads(data)) if data else None
