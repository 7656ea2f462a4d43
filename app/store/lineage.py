"""The context walk: every turn before a new one, in one round trip at any depth.

A conversation is walked the same way, from its own row: `conversation_locks`. Both can be told what
there is room for, and then read no further back.
"""

from collections.abc import Sequence
from operator import itemgetter
from typing import Any
from uuid import UUID

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from app.domain.items import join, split
from app.domain.response import Status
from app.domain.turn import Ancestry, Continuation, Place
from app.store.codec import decompress
from app.store.db import ReadTx, Row
from app.store.statements import EPHEMERAL, Statement
from app.store.tables import removed_items as removed
from app.store.tables import responses as t

_p = sa.bindparam
_by_seq = itemgetter("seq")


def turns_of(line: sa.CTE, *, tip: Any = None) -> sa.Lateral:
    """Each line up to where it was left: one index range scan a line, almost always exactly one.

    Served by uq_responses__line. Rows of one line come in its order; which line comes first is not said.

    Args:
        line: lines by `chain`, each with its last place taken, `upto`; if it was cut, from its `first`.
        tip: the turn whose own forks are wanted.
    """
    columns = turn_columns(line)
    if tip is not None:
        # Only the parent's are looked at, and on a line of many forks they are long.
        columns += [sa.case((t.c.id == tip, t.c[name])).label(name) for name in ("fork_chains", "fork_seqs")]
    turn = sa.select(*columns).where(
        t.c.tenant_id == _p("tenant_id"), t.c.chain_id == line.c.chain, t.c.seq <= line.c.upto
    )
    if "first" in line.c:
        turn = turn.where(t.c.seq >= line.c.first)
    # A subquery that sorts cannot be merged into the join, so the planner has to take one line
    # after the other, by the index, however few lines it believes there are.
    return turn.order_by(t.c.seq).lateral("turn")


def turn_columns(line: sa.CTE) -> list[sa.ColumnElement[Any]]:
    """What is read of a turn, as it is seen from where these lines end."""
    return [
        t.c.id, t.c.seq, t.c.chain_id, t.c.conversation_id, t.c.status, t.c.codec, t.c["items"],
        t.c.continuation, t.c.context_tokens, _removed(line).label("removed"),
    ]  # fmt: skip


def cut(line: sa.CTE, floor: sa.ColumnElement[Any]) -> sa.CTE:
    """The same lines from the last place that is out of reach: found by walking back, so it costs what is
    kept. That turn is still read, because what follows it may belong to it.

    Made before the turns are read: beneath row-level security only a plain comparison is an index's.

    Args:
        floor: the context's estimate up to which nothing is needed.
    """
    past = t.alias("past")
    last = (
        sa.select(past.c.seq)
        .where(
            past.c.tenant_id == _p("tenant_id"),
            past.c.chain_id == line.c.chain,
            past.c.seq <= line.c.upto,
            past.c.context_tokens <= floor,
        )
        .order_by(past.c.seq.desc())
        .limit(1)
    )
    first = sa.func.coalesce(last.correlate(line).scalar_subquery(), 0)
    return sa.select(line.c.chain, line.c.upto, first.label("first")).cte("kept")


def tip_tokens(chain: Any, seq: Any) -> sa.Select[Any]:
    """The estimate of the context at one place."""
    tip = t.alias("last")
    return sa.select(tip.c.context_tokens).where(
        tip.c.tenant_id == _p("tenant_id"), tip.c.chain_id == chain, tip.c.seq == seq
    )


def _removed(line: sa.CTE) -> sa.ColumnElement[Any]:
    """The places of a conversation's turn that were taken out of it, as seen from where its lines end."""
    # Asked once for all turns, it spares most conversations a look for each turn: half of the time.
    lost, anywhere = removed.alias("lost"), line.alias("anywhere")
    is_any = (
        sa.select(sa.literal(1))
        .select_from(lost.join(anywhere, lost.c.conversation_id == anywhere.c.chain))
        .where(lost.c.tenant_id == _p("tenant_id"), lost.c.since_seq <= anywhere.c.upto)
        .exists()
    )
    seen = line.alias("along")
    places = (
        sa.select(sa.func.array_agg(removed.c.place))
        .select_from(removed.join(seen, removed.c.conversation_id == seen.c.chain))
        .where(
            removed.c.tenant_id == _p("tenant_id"),
            removed.c.turn_id == t.c.id,
            removed.c.since_seq <= seen.c.upto,
        )
        .correlate(t)
    )
    return sa.case((sa.and_(t.c.conversation_id.is_not(None), is_any), places.scalar_subquery()))


def _walk(*, is_cut: bool) -> Statement:
    """From a parent that may still be chained on (by pk_responses), through the lines it came from."""
    tip = (
        sa.select(t.c.chain_id, t.c.seq, t.c.context_tokens, t.c.fork_chains, t.c.fork_seqs)
        .where(
            t.c.tenant_id == _p("tenant_id"),
            t.c.id == _p("id"),
            t.c.deleted_at.is_(None),
            t.c.mode < EPHEMERAL,
        )
        .cte("tip")
        .prefix_with("materialized", dialect="postgresql")
    )
    line = lines(sa.select(tip.c.chain_id.label("chain"), tip.c.seq.label("upto")), tip)
    if is_cut:
        line = cut(line, sa.select(tip.c.context_tokens).scalar_subquery() - _budget)
    turn = turns_of(line, tip=_p("id"))
    return Statement(sa.select(turn).select_from(line.join(turn, sa.true())))


_budget = _p("budget", type_=sa.Integer)


def lines(own: sa.Select[Any, Any], source: sa.CTE) -> sa.CTE:
    """The line itself and those it came from, as `source` names them in its arrays."""
    forks = _unnested(source.c.fork_chains, source.c.fork_seqs)
    return sa.union_all(own, sa.select(forks.c.chain, forks.c.upto).select_from(source, forks)).cte("line")


def _unnested(chains: Any, seqs: Any) -> sa.TableValuedAlias:
    columns = sa.column("chain", pg.UUID), sa.column("upto", sa.Integer)
    return sa.func.unnest(chains, seqs).table_valued(*columns).render_derived("forks")


def given_lines() -> sa.CTE:
    """Lines that the caller knows: parameters `chains` and `seqs`."""
    given = _unnested(_p("chains", type_=pg.ARRAY(pg.UUID)), _p("seqs", type_=pg.ARRAY(sa.Integer)))
    return sa.select(given.c.chain, given.c.upto).cte("line")


def _along(*, is_cut: bool) -> Statement:
    """Given lines, from wherever they begin."""
    line = given_lines()
    if is_cut:
        line = cut(line, _p("floor", type_=sa.Integer))
    turn = turns_of(line)
    return Statement(sa.select(turn).select_from(line.join(turn, sa.true())))


_ancestry = {is_cut: _walk(is_cut=is_cut) for is_cut in (False, True)}
_before = {is_cut: _along(is_cut=is_cut) for is_cut in (False, True)}


async def before(
    tx: ReadTx, parent: UUID | None, here: Place, *, floor_tokens: int | None = None
) -> Ancestry | None:
    """All turns before a stored one, whether or not its parent could still be chained on today.

    Args:
        floor_tokens: what lies before this estimate need not be read.
    """
    own = ((here.chain_id, here.seq - 1), *here.forks)
    found = await tx.fetch(
        _before[floor_tokens is not None],
        chains=[chain for chain, _ in own],
        seqs=[seq for _, seq in own],
        floor=floor_tokens,
    )
    return gather(parent, found, Place(here.chain_id, here.seq - 1, here.forks)) if found else None


async def ancestry(tx: ReadTx, parent: UUID, *, budget: int | None = None) -> Ancestry | None:
    """All turns from the root to `parent`, or None if that is unknown, deleted or another tenant's.

    Args:
        budget: as many tokens, by our estimate, are wanted; older turns may be left unread.
    """
    found = await tx.fetch(_ancestry[budget is not None], id=parent, budget=budget)
    if not found:
        return None
    return gather(parent, found, place(next(row for row in found if row["id"] == parent)))


def gather(parent: UUID | None, found: Sequence[Row], here: Place) -> Ancestry:
    """What was read, in order; `here` is where the last of it stands."""
    # Sorted here, where it costs next to nothing: Postgres would copy every row to do it.
    rows = sorted(found, key=_by_seq)
    # Of a line that is out of reach altogether its last turn was read: it does not belong here.
    begin = next((i for i in range(len(rows) - 1, 0, -1) if rows[i]["seq"] - rows[i - 1]["seq"] > 1), 0)
    last = rows[-1] if rows else None
    is_in_conversation = last is not None and last["conversation_id"] == last["chain_id"]
    return Ancestry(
        parent=parent,
        place=here,
        status=Status(last["status"]) if last else Status.COMPLETED,
        turns=tuple((items_of(row), decode_continuation(row["continuation"])) for row in rows[begin:]),
        is_whole=not rows or rows[begin]["seq"] == 0,
        tokens=last["context_tokens"] if last else 0,
        conversation=last["conversation_id"] if last and is_in_conversation else None,
    )


def items_of(row: Row) -> bytes:
    """A turn's items, but for those that were taken out."""
    blob = decompress(row["items"], row["codec"])
    if not row["removed"]:
        return blob
    gone = set(row["removed"])
    return join([item for place, item in enumerate(split(blob)) if place not in gone])


def place(row: Row) -> Place:
    return Place(row["chain_id"], row["seq"], forks(row))


def forks(row: Row) -> tuple[tuple[UUID, int], ...]:
    """The lines that a line came from."""
    return tuple(zip(row["fork_chains"] or (), row["fork_seqs"] or (), strict=True))


def encode(place: Place) -> dict[str, Any]:
    """The columns that say where a turn stands."""
    return {"chain_id": place.chain_id, "seq": place.seq, **encode_forks(place.forks)}


def encode_forks(forks: Sequence[tuple[UUID, int]]) -> dict[str, Any]:
    return {
        "fork_chains": [chain for chain, _ in forks] or None,
        "fork_seqs": [seq for _, seq in forks] or None,
    }


def encode_continuation(value: Continuation | None) -> bytes | None:
    if value is None:
        return None
    parts = [dict(value.open_calls), value.upstream, dict(value.upstream_ids), dict(value.orphans)]
    # Left out where it says nothing, so that the release before compaction reads all other turns.
    return orjson.dumps([*parts, True] if value.is_compacted else parts)


def decode_continuation(data: bytes | None) -> Continuation | None:
    return Continuation(*orjson.loads(data)) if data else None
