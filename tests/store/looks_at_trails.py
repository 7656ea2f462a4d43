"""Each function of the store that is for what is found of responses and what was done, applied to one."""

from datetime import UTC, datetime, timedelta
from typing import Any

from app import ids
from app.domain.audit import Action, Checkpoint, Head, Note, Record
from app.domain.facts import Term, Usage
from app.domain.response import Status
from app.domain.search import Filters
from app.domain.signing import Signer
from app.domain.tenancy import Caller
from app.domain.turn import Turn
from app.generation.ledger import Ledger
from app.store import (
    audit,
    branches,
    contents,
    day_stats,
    exports,
    facts,
    outbox,
    relatives,
    search,
    stats,
    surroundings,
)
from app.store.db import Database, Tx
from app.store.tables import OF_TENANTS
from tests.store.looks import Look
from tests.store.turns import add

PLACE = Checkpoint(1 << 40, datetime(2026, 11, 21, tzinfo=UTC), b"hash")


NOTE = Note(PLACE.at, Action.KEY_REVOKED, None, None, None, "{}")


TODAY = datetime.now(UTC).date()


def days(turn: Turn) -> stats.Asked:
    return stats.Asked(TODAY - timedelta(days=1), TODAY + timedelta(days=2), model=turn.model)


def known(turn: Turn) -> facts.Found:
    """What might be found of a turn."""
    names = ("previous_id", "fork_chains", "conversation_id", "finished_at", "status_before")
    row = dict.fromkeys(names) | {"id": turn.id, "chain_id": turn.id, "model": "other"}
    row |= {"seq": 0, "status": 2, "attempt": 0, "mode": 0}
    return facts.Found(row, Usage(), {(Term.TOOL, "tool", "")}, "words", {})


async def lock_head(tx: Tx) -> object:
    """Without the time, which is nobody's secret."""
    locked = await audit.lock_head(tx)
    return locked.head, locked.unsigned


def find(turn: Turn, **changes: Any) -> Filters:
    return Filters(model=turn.model, **changes)


async def knows(tx: Tx, turn: Turn) -> bool:
    return bool(await facts.read(tx, [turn.id], {}))


async def weighs(tx: Tx, turn: Turn) -> bool:
    """Whether it knows how large the response is, by which it would part it from others."""
    return bool(await tx.fetch(facts._sizes, ids=[turn.id]))


async def whole_count(tx: Tx, turn: Turn) -> int:
    return (await day_stats.whole(tx, days(turn))).count


OF_TRAILS: dict[str, tuple[Look, object]] = {
    "outbox.note": (lambda tx, turn: outbox.note(tx, Action.RESPONSE_DELETED, turn.id), None),
    "outbox.note_many": (
        lambda tx, turn: outbox.note_many(tx, [(Action.RESPONSE_READ, turn.id, {})]),
        None,
    ),
    "audit.is_pending": (lambda tx, _: audit.is_pending(tx), False),
    "audit.pending": (lambda tx, _: audit.pending(tx), 0),
    "audit.head": (lambda tx, _: audit.head(tx), Head()),
    "audit.state": (lambda tx, _: audit.state(tx), audit.State(Head(), (0, None), 0, (0, None))),
    "audit.last_data": (lambda tx, _: audit.last_data(tx, Action.RESPONSE_CREATED, "{"), None),
    "audit.page": (lambda tx, _: audit.page(tx, limit=9, newest_first=True), []),
    "audit.checkpoints": (lambda tx, _: audit.checkpoints(tx, after=0, limit=9), []),
    "contents.find": (lambda tx, turn: contents.find(tx, [turn.id]), {}),
    "facts.read": (knows, False),
    "facts.portions": (weighs, False),
    "search.find": (lambda tx, turn: search.find(tx, find(turn), limit=9), search.Page([], has_more=False)),
    "search.recent": (lambda tx, _: search.recent(tx, limit=9), search.Page([], has_more=False)),
    "search.find_whole": (
        lambda tx, turn: search.find_whole(tx, find(turn), limit=9),
        search.Page([], has_more=False),
    ),
    "stats.groups": (lambda tx, turn: stats.groups(tx, days(turn), "day"), []),
    "day_stats.whole": (whole_count, 0),
    "day_stats.day_counts": (
        lambda tx, turn: day_stats.day_counts(tx, days(turn), "status", [Status.COMPLETED]),
        [],
    ),
    "branches.child_counts": (lambda tx, turn: branches.child_counts(tx, [turn.id], most=9), {}),
    "branches.places_before": (
        lambda tx, turn: branches.places_before(tx, turn.id, ids.new_uuid(), places=0),
        None,
    ),
    "relatives.get": (lambda tx, turn: relatives.get(tx, turn.id), None),
    "relatives.ancestors": (lambda tx, turn: relatives.ancestors(tx, turn.id, below=9, limit=9), []),
    "relatives.children": (lambda tx, turn: relatives.children(tx, turn.id, after=None, limit=9), []),
    "surroundings.standing": (lambda tx, turn: surroundings.standing(tx, turn.id), None),
    "surroundings.items_at": (
        lambda tx, turn: surroundings.items_at(tx, (turn.place.chain_id, turn.place.seq)),
        None,
    ),
    "surroundings.glances": (lambda tx, turn: surroundings.glances(tx, [turn.id], most_bytes=99), {}),
    "surroundings.responses_among": (lambda tx, turn: surroundings.responses_among(tx, [turn.id]), set()),
    "exports.last_id": (lambda tx, _: exports.last_id(tx), None),
    "exports.waiting": (lambda tx, _: exports.waiting(tx), exports.Waiting(exports._NONE, 0)),
    "exports.endings": (lambda tx, turn: exports.endings(tx, [turn.id]), {}),
    "exports.checkpoint_before": (
        lambda tx, _: exports.checkpoint_before(tx, datetime(3026, 1, 1, tzinfo=UTC)),
        None,
    ),
}
"""The same for what is known of a response, and for what was done."""


OF_THE_LEDGER: dict[str, tuple[Look, object]] = {
    "audit.lock_head": (lambda tx, _: lock_head(tx), (Head(), 0)),
    "audit.take": (lambda tx, _: audit.take(tx, limit=9), []),
    "audit.append": (
        lambda tx, _: audit.append(tx, [Record(tx.tenant_id, 1 << 40, NOTE, b"before", b"hash")]),
        None,
    ),
    "audit.checkpoint": (lambda tx, _: audit.checkpoint(tx, PLACE), None),
    "facts.put": (lambda tx, turn: facts.put(tx, [known(turn)], {}), None),
    "facts.count": (lambda tx, turn: facts.count(tx, [known(turn)]), None),
    "facts.forget": (lambda tx, turn: facts.forget(tx, [turn.id]), None),
}
"""What no request may do: the ledger acts for a tenant, but not as one."""


async def recorded(db: Database, caller: Caller) -> Turn:
    """A turn between two others, of which facts and records are made; and something that was noted since."""
    first = await add(db, caller)
    turn = await add(db, caller, parent=first)
    await add(db, caller, parent=turn)
    ledger = Ledger(db, Signer(bytes(32)))
    await ledger.settle(caller)
    async with db.begin_system() as tx:
        mine = tx.of(caller.tenant_id)
        locked = await audit.lock_head(mine)
        await audit.checkpoint(mine, Checkpoint(locked.head.seq, locked.now, locked.head.hash))
        await outbox.note(mine, Action.RESPONSE_CREATED, first.id)
    return turn


async def trail(db: Database, caller: Caller) -> list[object]:
    """All that the tables hold of a tenant's trail and of what is found."""
    async with db.begin_system() as tx:
        return [
            await tx._driver.fetch(
                f"select * from {table} t where tenant_id = $1 order by t::text", caller.tenant_id
            )
            for table in OF_TENANTS
            if table.startswith("audit_") or table in SEARCHED
        ]


SEARCHED = {"response_facts", "response_terms", "response_words", "response_stats"}
