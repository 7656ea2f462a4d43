"""Whether a trail is what it was: every record read again, from the first to the last.

A changed, removed or moved record breaks the chain at its place. What is missing at the end is known from
the head and from the checkpoints, copies of which may be kept elsewhere; and so much as a checkpoint has to
come for cannot be without one that a trusted key signed (docs/decisions/0023).
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from app.domain.audit import Checkpoint, Fault, Head, Record, check
from app.domain.signing import is_signed
from app.domain.tenancy import Caller
from app.generation.ledger import MOST_UNSIGNED
from app.store import audit
from app.store.audit import State
from app.store.db import Database

PAGE = 1000

_UNREADABLE = (TypeError, ValueError, OverflowError)
"""What the driver makes of a value that nothing of ours has written, such as a year before the first."""

OnPage = Callable[[Sequence[Record]], Awaitable[None]]


@dataclass(slots=True)
class Verdict:
    """What a verification came to."""

    head: Head
    """How far everything was right."""
    records: int = 0
    checkpoints: int = 0
    signed: int = 0
    """How many of the checkpoints carry the signature of a trusted key."""
    vouched_seq: int = 0
    """Up to here such a signature vouches for the trail."""
    fault: Fault | None = None
    """What is wrong, and with which record; None if nothing is."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What a trail is held against, beside itself."""

    state: State
    trusted: Collection[bytes]
    kept: Mapping[int, bytes]


async def verify(
    db: Database,
    caller: Caller,
    *,
    trusted: Collection[bytes] = (),
    after: Head | None = None,
    kept: Iterable[Checkpoint] = (),
    on_page: OnPage | None = None,
) -> Verdict:
    """Read a trail from its beginning, or from a place that is known to be right, up to what is wrong.

    Args:
        trusted: Public keys whose signatures count. Without any, none has to be there.
        after: The place to begin behind.
        kept: Checkpoints that were kept elsewhere.
        on_page: Told of the records of each page that was right.
    """
    async with db.read(caller) as tx:
        # What is appended meanwhile is no fault, and is left for the next time.
        state = await audit.state(tx)
    known = _Known(state, trusted, {each.seq: each.hash for each in kept})
    start = after or Head()
    verdict = Verdict(start, vouched_seq=start.seq)
    while verdict.fault is None and verdict.head.seq < state.last:
        records, checkpoints, verdict.fault = await _page(db, caller, verdict.head.seq, state.last)
        for record in records:
            verdict.fault = verdict.fault or _checked(record, checkpoints.get(record.seq), known, verdict)
        if not records:
            break
        if verdict.fault is None and on_page:
            await on_page(records)
    verdict.fault = verdict.fault or _missing(verdict.head.seq, known)
    return verdict


async def verify_newest(
    db: Database, caller: Caller, *, trusted: Collection[bytes], at_most: int
) -> tuple[Head, Verdict]:
    """Read the newest records alone. The one before them is taken to be right: that is the place told."""
    async with db.read(caller) as tx:
        last = (await audit.state(tx)).last
    start = Head()
    if last > at_most:
        found, _, fault = await _page(db, caller, last - at_most - 1, last - at_most)
        if fault:
            return start, Verdict(start, fault=fault)
        start = Head(found[0].seq, found[0].hash) if found else start
    return start, await verify(db, caller, trusted=trusted, after=start)


async def _page(
    db: Database, caller: Caller, after: int, last: int
) -> tuple[Sequence[Record], dict[int, Checkpoint], Fault | None]:
    """The next records with their checkpoints; no connection is held while they are looked at.

    A value that not even the driver can read makes a whole page unreadable: then it is one record at a time.
    """
    try:
        return *await _read(db, caller, after, last, PAGE), None
    except _UNREADABLE:
        pass
    try:
        return *await _read(db, caller, after, last, 1), None
    except _UNREADABLE as error:
        return [], {}, Fault(after + 1, f"was changed, or its checkpoint, and cannot be read: {error}")


async def _read(
    db: Database, caller: Caller, after: int, last: int, limit: int
) -> tuple[Sequence[Record], dict[int, Checkpoint]]:
    async with db.read(caller) as tx:
        found = await audit.page(tx, limit=limit, newest_first=False, after=after)
        records = [each for each in found if each.seq <= last]
        upto = records[-1].seq if records else after
        checkpoints = await audit.checkpoints(tx, after=after, upto=upto, limit=limit)
    return records, {each.seq: each for each in checkpoints}


def _checked(record: Record, checkpoint: Checkpoint | None, known: _Known, verdict: Verdict) -> Fault | None:
    fault = check(record, verdict.head) or _compared(record, checkpoint, known)
    if fault:
        return fault
    verdict.head, verdict.records = Head(record.seq, record.hash), verdict.records + 1
    if checkpoint:
        verdict.checkpoints += 1
        if checkpoint.public_key in known.trusted:
            verdict.signed, verdict.vouched_seq = verdict.signed + 1, record.seq
    if known.trusted and record.seq - verdict.vouched_seq > MOST_UNSIGNED:
        return Fault(
            verdict.vouched_seq + 1,
            f"and the {MOST_UNSIGNED} after it have no checkpoint that a trusted key signed",
        )
    return None


def _compared(record: Record, checkpoint: Checkpoint | None, known: _Known) -> Fault | None:
    """Whether all that knows a record's hash knows the same one."""
    said = known.state.head
    if record.seq == said.seq and record.hash != said.hash:
        return Fault(record.seq, "has another hash than the head of the trail says")
    if known.kept.get(record.seq, record.hash) != record.hash:
        return Fault(record.seq, "has another hash than the checkpoint that was kept says")
    if checkpoint is None:
        return None
    if checkpoint.hash != record.hash:
        return Fault(record.seq, "has another hash than its checkpoint says")
    is_claimed = checkpoint.public_key is not None or checkpoint.signature is not None
    if is_claimed and not is_signed(record.tenant_id, checkpoint):
        return Fault(record.seq, "has a checkpoint that was changed: its signature does not fit")
    return None


def _missing(reached: int, known: _Known) -> Fault | None:
    """What a trail that is right as far as it goes lacks, or has too much."""
    state = known.state
    (place, at), (last_place, last_at) = state.checkpoint, state.last_checkpoint
    for who, seq in (
        ("the head of the trail", state.head.seq),
        ("a checkpoint", last_place),
        ("a checkpoint that was kept", max(known.kept, default=0)),
    ):
        if seq > reached:
            return Fault(reached + 1, f"is missing: {who} says that the trail went on to {seq}")
    if reached > state.head.seq:
        return Fault(state.head.seq + 1, "stands behind the end that the head of the trail says")
    if place > last_place:
        return Fault(place, "has lost its checkpoint, of which the head of the trail knows")
    if place < last_place:
        return Fault(last_place, "has a checkpoint of which the head of the trail does not know")
    if place and at != last_at:
        return Fault(place, "has a checkpoint of another time than the head of the trail says")
    return None
