"""Put an accepted draft into the queue: one transaction, committed before anybody is answered."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson

from app.domain.echo import echo
from app.domain.events import Event
from app.domain.gates import Gated, gated_fields
from app.domain.items import InputItems, split
from app.domain.jobs import PRIORITIES, Mode, NewJob
from app.domain.response import Draft, Status, snapshot
from app.domain.seals import NO_SEALS, Seals
from app.domain.tenancy import Caller
from app.domain.turn import Turn
from app.errors import RateLimited
from app.generation import history, sealing
from app.generation.accept import Accepted
from app.generation.idempotency import taken_over
from app.store import conversation_locks, idempotency
from app.store.db import Database
from app.store.entries import Entries, put_in_queue

RETRY_AFTER_SECONDS = 5.0
"""What a client of a full queue is told to wait: a guess, as nobody knows how long models take."""


@dataclass(frozen=True, slots=True)
class Queued:
    """A response that waits for a worker: what its creator is told."""

    body: bytes
    events: tuple[Event, ...]


async def enqueue(
    db: Database, entries: Entries, caller: Caller, accepted: Accepted, *, seals: Seals = NO_SEALS
) -> Queued:
    """Store a response as queued, the secrets of its tools sealed. Ring the bell after it.

    Raises:
        Conflict: the conversation's lock was lost before.
        ServiceError: so was the claim of the `Idempotency-Key`.
        RateLimited: the tenant has as many responses waiting as it may; nothing is stored.
    """
    queued = _queued(accepted.draft)
    job = _job(accepted, queued, caller, seals)
    if accepted.claim or accepted.lock:
        await _enqueue_alone(db, entries, caller, accepted, job)
    elif not await entries.enqueue(caller, job):
        raise _full(entries.max_queued)
    return queued


async def _enqueue_alone(
    db: Database, entries: Entries, caller: Caller, accepted: Accepted, job: NewJob
) -> None:
    """Queue what has to keep a promise of its own in the same transaction; nothing of it without room."""
    async with db.begin(caller) as tx:
        if accepted.claim and not await idempotency.end(tx, accepted.claim):
            raise taken_over()
        if accepted.lock and not await conversation_locks.promise(
            tx, accepted.lock.conversation_id, job.turn.id
        ):
            raise history.locked()
        if not await put_in_queue(tx, [job], max_queued=entries.max_queued):
            raise _full(entries.max_queued)


def _full(max_queued: int) -> RateLimited:
    message = f"Too many responses are queued: {max_queued} is the limit. Please retry later."
    return RateLimited(message, code="rate_limit_exceeded", retry_after_seconds=RETRY_AFTER_SECONDS)


def _job(accepted: Accepted, queued: Queued, caller: Caller, seals: Seals) -> NewJob:
    draft = accepted.draft
    mode = _mode(draft)
    request, secrets = sealing.put_away(draft, caller, seals)
    return NewJob(
        turn=_turn(accepted, queued, mode),
        mode=mode,
        priority=PRIORITIES.get(draft.params.get("service_tier"), 0),
        event_count=len(queued.events) if draft.is_streamed else 0,
        request=request,
        secrets=secrets,
        key_id=caller.key_id,
        frames=b"".join(event.frame for event in queued.events) if draft.is_streamed else b"",
    )


def _turn(accepted: Accepted, queued: Queued, mode: Mode) -> Turn:
    draft, place = accepted.draft, accepted.place
    if draft.conversation or (Mode.EPHEMERAL in mode and place.seq):
        # It joins its conversation when it has ended, if it ends well.
        place = place.elsewhere(draft.id)
    return Turn(
        id=draft.id,
        parent=accepted.parent,
        place=place,
        status=Status.QUEUED,
        model=draft.model,
        input_blob=draft.input.blob,
        input_count=len(draft.input.items),
        input_gated=draft.input.gated,
        output_blob=b"",
        output_count=0,
        output_gated=Gated.NONE,
        body=queued.body,
        context_tokens=accepted.context_tokens,
        conversation=accepted.conversation,
        aliases=accepted.aliases,
    )


def _mode(draft: Draft) -> Mode:
    mode = Mode.BACKGROUND
    if draft.is_streamed:
        mode |= Mode.STREAMED
    return mode if draft.is_stored else mode | Mode.EPHEMERAL


def _queued(draft: Draft) -> Queued:
    body = orjson.dumps(snapshot(draft, status=Status.QUEUED, output=[]))
    return Queued(body, queued_events(body))


def draft_of(response_id: UUID, request: bytes, input_blob: bytes) -> Draft:
    """The draft as the API accepted it: no field is lost on the way (law L5)."""
    params: dict[str, Any] = orjson.loads(request)
    items = split(input_blob)
    return Draft(
        id=response_id,
        model=params["model"],
        params=params,
        input=InputItems(items, input_blob, gated_fields(items)),
        echo=echo(params, model=params["model"]),
    )


def queued_events(body: bytes) -> tuple[Event, ...]:
    """What a stream says before any worker has seen the response."""
    names = ("response.created", "response.queued")
    said = (
        Event(
            name, number, b'{"type":"%s","sequence_number":%d,"response":%s}' % (name.encode(), number, body)
        )
        for number, name in enumerate(names)
    )
    return tuple(said)
