"""The only writer of `responses.status` (law L3): append, enqueue, claim, finish, cancel, requeue.

Every change is one guarded statement: it names the state it leaves, and later writes of a run name the
attempt that won it. Who comes too late changes nothing and is told so.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
import structlog
from sqlalchemy.dialects import postgresql as pg

from app import ids
from app.domain.audit import Action, content_digest
from app.domain.jobs import Claim, Ended, Ending, Expired, Job, Mode, NewJob
from app.domain.response import CHAINABLE, Status
from app.domain.turn import Turn
from app.domain.webhooks import event_of
from app.store import attempts, fairness, items, lineage, turn_rows, webhook_outbox
from app.store import conversation_locks as locks
from app.store.codec import CODEC, compress, decompress
from app.store.db import Row, SystemTx, Tx
from app.store.ended_bodies import ended_body
from app.store.outbox import noting, text
from app.store.statements import CANCELLED, IN_PROGRESS, ITEMS, QUEUED, Statement
from app.store.tables import conversations as c
from app.store.tables import response_attempts as a
from app.store.tables import responses as t
from app.store.turn_rows import COLUMNS

log: structlog.stdlib.BoundLogger = structlog.get_logger()

_p = sa.bindparam
_this = sa.and_(t.c.tenant_id == _p("tenant_id"), t.c.id == _p("id"))
_claimed = sa.and_(_this, t.c.status == IN_PROGRESS, t.c.attempt == _p("attempt"))
_soon = sa.func.now() + _p("lease", type_=sa.Interval)
_later = sa.func.now() + _p("ttl", type_=sa.Interval)

_insert = noting(
    pg.insert(t)
    .values({name: _p(name) for name in COLUMNS})
    .values(finished_at=sa.func.now())
    .on_conflict_do_nothing()
    .returning(t.c.id),
    Action.RESPONSE_CREATED,
)
_insert_items = Statement(
    pg.insert(t)
    .values({name: _p(name) for name in COLUMNS})
    .values(finished_at=sa.func.now(), mode=Mode.ITEMS)
)


def _append_locked() -> Statement:
    """Append to a conversation and give its lock back, if it is still ours and nothing came between."""
    appended = (
        sa.update(c)
        .where(
            locks.IS_OURS,
            c.c.id == _p("conversation_id"),
            c.c.deleted_at.is_(None),
            c.c.next_seq == _p("seq"),
        )
        .values(next_seq=c.c.next_seq + 1, **locks.FREE)
        .returning(c.c.id)
        .cte("appended")
    )
    values = [_p(name, type_=t.c[name].type) for name in COLUMNS]
    row = sa.select(*values, sa.func.now()).select_from(appended)
    return noting(
        pg.insert(t).from_select([*COLUMNS, "finished_at"], row).on_conflict_do_nothing().returning(t.c.id),
        Action.RESPONSE_CREATED,
    )


_append = _append_locked()


def _attach_locked() -> Statement:
    """Move a response from its own line to the end of its conversation, and give the lock back."""
    appended = (
        sa.update(c)
        .where(locks.IS_OURS, c.c.id == _p("conversation_id"), c.c.deleted_at.is_(None))
        .values(next_seq=c.c.next_seq + 1, **locks.FREE)
        .returning(c.c.id, (c.c.next_seq - 1).label("seq"), c.c.fork_chains, c.c.fork_seqs)
        .cte("appended")
    )
    place = {
        "chain_id": appended.c.id,
        "seq": appended.c.seq,
        "fork_chains": appended.c.fork_chains,
        "fork_seqs": appended.c.fork_seqs,
    }
    return Statement(sa.update(t).where(_this).values(place))


_attach = _attach_locked()
_enqueue = noting(
    pg.insert(t)
    .values({name: _p(name) for name in (*COLUMNS, "mode", "priority", "event_count", "request", "secrets")})
    .values(queued_at=sa.func.now())
    .on_conflict_do_nothing()
    .returning(t.c.id),
    Action.RESPONSE_CREATED,
)
_lock_queue = Statement(sa.select(sa.func.pg_advisory_xact_lock(_p("tenant_id", type_=sa.BigInteger))))
_queued = Statement(
    sa.select(sa.func.count().label("count")).select_from(
        sa.select(sa.literal(1))
        .where(t.c.tenant_id == _p("tenant_id"), t.c.status == QUEUED)
        .limit(_p("max_queued"))
        .subquery()
    )
)


def _claim_next(first: sa.CTE) -> Statement:
    """Take a queued response that is locked, note the attempt, and give back what the run needs."""
    claimed = (
        sa.update(t)
        .where(t.c.tenant_id == first.c.tenant_id, t.c.id == first.c.id)
        .values(status=Status.IN_PROGRESS, attempt=t.c.attempt + 1, lease_until=_soon)
        .returning(
            t.c.tenant_id, t.c.id, t.c.attempt, t.c.mode, t.c.event_count, t.c.previous_id, t.c.chain_id,
            t.c.seq, t.c.fork_chains, t.c.fork_seqs, t.c.codec, t.c.request, t.c["items"],
            t.c.context_tokens, t.c.secrets,
        )
        .cte("claimed")
    )  # fmt: skip
    noted = (
        pg.insert(a)
        .from_select(
            ["tenant_id", "response_id", "attempt", "owner"],
            sa.select(claimed.c.tenant_id, claimed.c.id, claimed.c.attempt, _p("owner", type_=sa.Text)),
        )
        .cte("noted")
    )
    return Statement(sa.select(claimed).add_cte(noted))


_claim = _claim_next(fairness.first_in_turn())
_claim_of_tenant = _claim_next(fairness.first_of_tenant())

_ENDED: dict[str, Any] = {
    "finished_at": sa.func.now(),
    "lease_until": None,
    "request": None,
    "secrets": None,
}
_expiry = sa.case((t.c.mode.op("&")(sa.literal_column(str(int(Mode.EPHEMERAL)))) > 0, _later), else_=None)
_FINISH = (
    "status", "codec", "model", "body", "items", "output_count", "output_gated", "continuation",
    "event_count", "stream_shape", "context_tokens",
)  # fmt: skip
_finish = noting(
    sa.update(t)
    .where(_claimed)
    .values(**{name: _p(name) for name in _FINISH}, expires_at=_expiry, **_ENDED)
    .returning(t.c.id, t.c.conversation_id),
    Action.RESPONSE_FINISHED,
    queueing=webhook_outbox.queueing,
    also=attempts.ending,
)
_is_cancelled = _p("status", type_=sa.SmallInteger) == CANCELLED
_end = noting(
    sa.update(t)
    .where(_this, sa.or_(t.c.status == IN_PROGRESS, sa.and_(t.c.status == QUEUED, _is_cancelled)))
    .values(
        status=_p("status"), body=_p("body"), codec=_p("codec"), items=_p("items"),
        event_count=_p("event_count"), expires_at=_expiry, **_ENDED,
    )
    .returning(t.c.id),
    queueing=webhook_outbox.queueing,
)  # fmt: skip
_requeue = Statement(
    sa.update(t)
    .where(_claimed)
    .values(status=Status.QUEUED, queued_at=sa.func.now(), lease_until=None, event_count=_p("event_count"))
    .returning(t.c.id)
)
_put_off = Statement(sa.update(t).where(_claimed).values(lease_until=_soon))
_locked = (
    t.c.tenant_id, t.c.id, t.c.status, t.c.attempt, t.c.mode, t.c.event_count, t.c.codec, t.c.body,
    t.c["items"], t.c.request, t.c.conversation_id, (t.c.lease_until < sa.func.now()).label("is_lease_over"),
)  # fmt: skip
_lock = Statement(
    sa.select(*_locked).where(_this, t.c.deleted_at.is_(None), t.c.mode < ITEMS).with_for_update()
)
_is_alive = Statement(
    sa.select(c.c.id).where(c.c.tenant_id == _p("tenant_id"), c.c.id == _p("id"), c.c.deleted_at.is_(None))
)
_is_stored = Statement(sa.select(t.c.id).where(_this))
_lock_expired = Statement(
    sa.select(*_locked)
    .where(t.c.status == IN_PROGRESS, t.c.lease_until < sa.func.now())
    .order_by(t.c.lease_until)
    .limit(_p("limit"))
    .with_for_update(skip_locked=True)
)


async def append(tx: Tx, turn: Turn) -> None:
    """Store a finished turn at its place, or on a line of its own if another child was first there.

    Repeating it is harmless: a turn that is already stored stays as it is. That is what a caller
    needs whose connection broke before it learned the outcome of the commit.
    """
    await _put_each(tx, _insert, [(turn, {})])


async def append_each(tx: Tx, turns: Sequence[tuple[Turn, UUID | None]]) -> None:
    """Store finished turns of one tenant, each with the id of the key that made it.

    As `append` does, in one round trip; this transaction may be that one statement, if no turn names items.
    """
    # Always in the same order: two batches that fork the same lines would else wait for each other.
    in_order = sorted(turns, key=lambda each: (each[0].place.chain_id, each[0].place.seq))
    await _put_each(tx, _insert, [(turn, {"key_id": key_id}) for turn, key_id in in_order])


async def append_locked(tx: Tx, turn: Turn) -> bool:
    """End the conversation's lock with its response: append what may be continued, at the place that was
    read with the lock; put what has failed beside the line, and so too what outlived its conversation.

    Returns:
        False if the lock was lost to others, who may have appended: then nothing is stored. Repeating it is
        harmless, as for `append`.
    """
    values = turn_rows.values(turn) | {"holder": turn.id}
    if turn.status in CHAINABLE and await tx.fetch_one(_append, **values):
        await _name(tx, turn)
        return True
    if await tx.fetch_one(_is_stored, id=turn.id):
        return True
    if turn.status in CHAINABLE and await tx.fetch_one(_is_alive, id=turn.conversation):
        return False
    await _put_each(tx, _insert, [(replace(turn, place=turn.place.elsewhere(turn.id)), {})])
    if turn.conversation:
        await locks.release(tx, turn.conversation, turn.id)
    return True


async def append_items(tx: Tx, turn: Turn) -> None:
    """Store a turn that is not a response, at its place: nobody else may be appending."""
    await tx.fetch(_insert_items, **turn_rows.values(turn))
    await _name(tx, turn)


async def enqueue(tx: Tx, jobs: Sequence[NewJob], *, max_queued: int) -> int:
    """Store responses as queued work, as many as its tenant may still have waiting; so many of the first.

    A lock of the tenant's own makes the limit exact; foreground responses never meet it.
    """
    await tx.fetch(_lock_queue)
    count = await tx.fetch_one(_queued, max_queued=max_queued)
    has_room = jobs[: max(0, max_queued - (count["count"] if count else 0))]
    await _put_each(tx, _enqueue, [(job.turn, _of_job(job)) for job in has_room])
    return len(has_room)


def _of_job(job: NewJob) -> dict[str, Any]:
    is_stored = Mode.EPHEMERAL not in job.mode
    return {
        **({"key_id": job.key_id} if job.key_id else {}),
        "mode": job.mode,
        "priority": job.priority,
        "event_count": job.event_count,
        "request": compress(job.request),
        "secrets": job.secrets,
        "data": text({"status": job.turn.status.wire, "model": job.turn.model, "store": is_stored}),
    }


async def claim(
    tx: SystemTx,
    *,
    owner: str,
    lease_seconds: float,
    last_tenant_id: int = 0,
    count: int = 1,
    max_running: int | None = None,
) -> list[Job]:
    """Win the right to generate queued responses, up to `count` of them; fewer are all that may run, but for
    large ones, of which a statement claims no more than `fairness.CLAIMED_BYTES`.

    They are the first, by priority and age, of the next tenant after `last_tenant_id`, then of the one
    behind it, so that tenants take turns. Of one that has `max_running` running already nothing is claimed;
    with that limit one is claimed at a time. One statement claims, so two workers cannot both win, and rows
    in others' hands are passed by. The attempt number that it returns fences every later write. Which
    message woke the worker does not matter: the row is the queue.
    """
    how = {"owner": owner, "lease": timedelta(seconds=lease_seconds)}
    if max_running is None:
        rows = await tx.fetch(_claim, last_tenant_id=last_tenant_id, count=count, **how)
    else:
        rows = await _claim_within(tx, last_tenant_id, max_running, how)
    return [_job(row) for row in rows]


def _job(row: Row) -> Job:
    claim = Claim(row["tenant_id"], UUID(int=row["id"].int), row["attempt"])
    try:
        request, input_blob = (decompress(row[name], row["codec"]) for name in ("request", "items"))
    except (ValueError, TypeError):
        # Damaged, or null. The claim has to stand, and so do those that were won with it. Undone, it would
        # leave the row where it was: first in everyone's queue.
        log.exception("response.unreadable", response_id=ids.response_id(claim.response_id))
        request, input_blob = b"", b""
    return Job(
        claim=claim,
        mode=Mode(row["mode"]),
        event_count=row["event_count"],
        parent=row["previous_id"],
        place=lineage.place(row),
        request=request,
        input_blob=input_blob,
        context_tokens=row["context_tokens"],
        secrets=row["secrets"],
    )


async def _claim_within(
    tx: SystemTx, last_tenant_id: int, max_running: int, how: dict[str, Any]
) -> Sequence[Row]:
    """Claim where there is room. Who waited for another's claim may find none left, and goes on."""
    passed = set[int]()
    while True:
        turn_of = await fairness.take_turn(tx, last_tenant_id=last_tenant_id, max_running=max_running)
        if turn_of is None or turn_of in passed:
            return ()
        if rows := await tx.fetch(_claim_of_tenant, turn_of=turn_of, max_running=max_running, **how):
            return rows
        passed.add(last_tenant_id := turn_of)


async def finish(tx: Tx, ending: Ending) -> Ended | None:
    """End a claimed response and its attempt; None if it was cancelled or taken from us meanwhile.

    If it holds a conversation's lock, it is appended there, or has failed; the lock ends with it.
    """
    row, response_id = await tx.fetch_one(_finish, **_of_ending(ending)), ending.claim.response_id
    if row and (conversation_id := row["conversation_id"]):
        if ending.turn.status in CHAINABLE:
            await tx.fetch(_attach, id=response_id, holder=response_id, conversation_id=conversation_id)
        else:
            await locks.release(tx, conversation_id, response_id)
    return Ended(row["deliveries"]) if row else None


async def finish_each(tx: Tx, endings: Sequence[Ending]) -> list[Ended | None]:
    """End responses of one tenant, none of them in a conversation; what became of each.

    As `finish` does, in one round trip; this transaction may be that one statement.
    """
    # In the order in which renewals and the journal lock them, or each would wait for the other.
    in_order = sorted(endings, key=lambda each: each.claim.response_id)
    rows = {row["id"]: row for row in await tx.fetch_each(_finish, [_of_ending(each) for each in in_order])}
    found = [rows.get(each.claim.response_id) for each in endings]
    return [Ended(row["deliveries"]) if row else None for row in found]


def _of_ending(it: Ending) -> dict[str, Any]:
    return {
        "id": it.claim.response_id,
        "ttl": timedelta(seconds=it.ttl_seconds),
        "event_count": it.event_count,
        "stream_shape": compress(it.shape) if it.shape else None,
        "event": event_of(it.turn.status),
        **turn_rows.outcome(it.turn),
        **attempts.values(it.claim, it.turn.status.wire, it.upstream_id, it.usage),
    }


async def requeue(tx: Tx, claim: Claim, *, event_count: int) -> bool:
    """Hand a claimed response back, for anyone to claim again; so many events have been shown of it."""
    row = await tx.fetch_one(_requeue, id=claim.response_id, attempt=claim.attempt, event_count=event_count)
    return row is not None


async def put_off(tx: Tx, claim: Claim, *, seconds: float) -> None:
    """Keep a claimed response from the reaper for a while."""
    await tx.fetch(_put_off, id=claim.response_id, attempt=claim.attempt, lease=timedelta(seconds=seconds))


async def lock(tx: Tx, response_id: UUID) -> Row | None:
    """The response's row, kept from changing until the transaction ends."""
    return await tx.fetch_one(_lock, id=response_id)


async def lock_expired(tx: SystemTx, *, limit: int) -> Sequence[Row]:
    """Responses whose lease has run out, kept from changing; those that another reaper holds are skipped."""
    return await tx.fetch(_lock_expired, limit=limit)


def expired(row: Row, *, event_count: int) -> Expired:
    """What a decision about a locked row needs."""
    return Expired(Status(row["status"]), row["is_lease_over"] is True, row["attempt"], event_count)


async def end(
    tx: Tx, row: Row, status: Status, *, event_count: int, ttl_seconds: float, error: dict[str, str] | None
) -> None:
    """End a locked, unfinished response from outside its run: cancelled, or failed by the reaper.

    Whoever runs it finds its attempt fenced off.
    """
    body, blob = ended_body(row, status, error), decompress(row["items"], row["codec"])
    done = Action.RESPONSE_CANCELLED if status is Status.CANCELLED else Action.RESPONSE_FINISHED
    await tx.fetch(
        _end,
        id=row["id"],
        status=status,
        body=compress(body),
        codec=CODEC,
        items=compress(blob),
        event_count=event_count,
        ttl=timedelta(seconds=ttl_seconds),
        action=done,
        digest=content_digest(body, blob),
        data=text({"status": status.wire}),
        event=event_of(status),
    )
    if row["conversation_id"]:
        await locks.release(tx, row["conversation_id"], row["id"])


async def _put_each(tx: Tx, statement: Statement, turns: Sequence[tuple[Turn, dict[str, Any]]]) -> None:
    rows = [turn_rows.values(turn) | more for turn, more in turns]
    kept = {row["id"] for row in await tx.fetch_each(statement, rows)}
    for turn, more in turns:
        if turn.parent and turn.id not in kept:
            aside = replace(turn, place=turn.place.elsewhere(turn.id))
            await tx.fetch_each(statement, [turn_rows.values(aside) | more])
        await _name(tx, turn)


async def _name(tx: Tx, turn: Turn) -> None:
    if turn.aliases:
        await items.name(tx, turn.id, turn.aliases, is_listed=turn.conversation is not None)
