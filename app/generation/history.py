"""What stands before a new turn: read in one round trip, and cut to what the model has room for."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Literal

import structlog

from app import ids
from app.domain import compaction, tokens, truncation
from app.domain.conversation import Lock
from app.domain.remembered import Remembered
from app.domain.response import CHAINABLE, Draft
from app.domain.tenancy import Caller
from app.domain.turn import Ancestry
from app.errors import Conflict, InvalidRequest, NotFound, ServiceError, Unavailable
from app.store import conversation_locks, lineage
from app.store.db import Database

log: structlog.stdlib.BoundLogger = structlog.get_logger()

OnOpenToolCalls = Literal["reject", "interrupt"]

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 0.5
"""Between looks at a conversation that is busy: at once where turns are short, seldom where they are long."""


Recall = Callable[[str], Remembered | None]
"""Looks for a response outside the store, by the id that a request gives."""


async def _never() -> bool:
    return False


def nothing(_: str) -> None:
    """Remember nothing: what is not in the store is not there."""


def _as_it_is(draft: Draft) -> Draft:
    return draft


@dataclass(frozen=True, slots=True)
class Terms:
    """How a request's history is to be treated, beside what its body says."""

    context_window_tokens: int | None = None
    """Of the model; None where nobody said: then nothing is counted."""
    on_open_tool_calls: OnOpenToolCalls = "reject"
    """What becomes of tool calls that the new input leaves without an output."""
    wait_seconds: float = 0
    """How long to wait for a conversation in which another response runs; 0 refuses at once."""
    lease_seconds: float = 15
    """How long a conversation stays locked by a process that has vanished."""
    is_abandoned: Callable[[], Awaitable[bool]] = _never
    """Whether nobody waits for the answer any more: then nor is the conversation waited for."""
    recall: Recall = nothing
    """What the client's connection remembers beside the store."""
    opened: Callable[[Draft], Draft] = _as_it_is
    """Lets a draft know what the compaction items stand for that came into its input from there, or in the
    place of a reference."""


@dataclass(frozen=True, slots=True)
class History:
    """The turns before a new one, and the right to append to them."""

    ancestry: Ancestry | None = None
    lock: Lock | None = None
    remembered: Remembered | None = None
    """The previous response where it is in no store; `ancestry` is what the store has before it."""


async def read(db: Database, caller: Caller, draft: Draft, terms: Terms) -> History:
    """The history that a draft names: a chain, a conversation (locked, if the response is stored), or none.

    Raises:
        InvalidRequest: the previous response cannot be continued.
        NotFound: there is no such conversation.
        Conflict: another response runs in the conversation.
    """
    budget = read_budget(draft, terms.context_window_tokens)
    if draft.conversation:
        return await _conversation(db, caller, draft, terms, budget)
    if draft.previous_response_id:
        if remembered := terms.recall(draft.previous_response_id):
            return History(remembered.stored, remembered=remembered)
        return History(await _chain(db, caller, draft.previous_response_id, budget))
    return History()


def read_budget(draft: Draft, window_tokens: int | None) -> int | None:
    """How much of a history may be sent at most, or None: read it all."""
    if window_tokens is None or draft.params.get("truncation") != "auto":
        return None
    if compaction.is_asked_for(draft.params, draft.input.items):
        return None  # What is too long is summed up, and so it has to be read.
    return max(truncation.budget(window_tokens, draft.params), 0)


def fit(ancestry: Ancestry | None, draft: Draft, window_tokens: int | None) -> Ancestry | None:
    """The same history as far as it fits the model's window beside the new input.

    What is compacted, or has been, is left to `compaction`: its length is known only there.

    Raises:
        InvalidRequest: it does not fit, and `truncation` does not allow to leave the oldest turns out, or
            the new input alone is too long.
    """
    if window_tokens is None:
        return ancestry
    turns = [blob for blob, _ in ancestry.turns] if ancestry else []
    if _is_compacted(ancestry, draft):
        return ancestry
    budget = truncation.budget(window_tokens, draft.params)
    is_whole = ancestry is None or ancestry.is_whole
    if is_whole and sum(map(tokens.estimate, (*turns, draft.input.blob))) <= budget:
        return ancestry
    if ancestry is None or draft.params.get("truncation") != "auto":
        raise truncation.too_long()
    kept = truncation.fit(turns, draft.input.blob, budget, is_whole=is_whole)
    left = list(ancestry.turns[kept.start :])
    if left:
        left[0] = (kept.head, left[0][1])
    return replace(ancestry, turns=tuple(left))


def _is_compacted(ancestry: Ancestry | None, draft: Draft) -> bool:
    items, turns = draft.input.items, ancestry.turns if ancestry else ()
    if compaction.is_asked_for(draft.params, items) or compaction.is_in(items):
        return True
    return any(left is not None and left.is_compacted for _, left in turns)


async def release(db: Database, lock: Lock) -> None:
    """Give a conversation back, unless its response is queued; where Postgres is away, its lease does."""
    try:
        async with db.begin(Caller(lock.tenant_id)) as tx:
            await conversation_locks.give_back(tx, lock.conversation_id, lock.response_id)
    except Unavailable:
        log.warning("store.unavailable", response_id=ids.response_id(lock.response_id))


async def _chain(db: Database, caller: Caller, parent: str, budget: int | None) -> Ancestry:
    """The parent's line; the same words for a parent that is absent, foreign, unstored or unfit (law L7)."""
    key = ids.parse_response_id(parent)
    ancestry = None
    if key:
        async with db.read(caller) as tx:
            ancestry = await lineage.ancestry(tx, key, budget=budget)
    if ancestry is None or ancestry.status not in CHAINABLE:
        raise InvalidRequest(
            f"Previous response with id '{parent}' not found.",
            code="previous_response_not_found",
            param="previous_response_id",
        )
    return ancestry


async def _conversation(
    db: Database, caller: Caller, draft: Draft, terms: Terms, budget: int | None
) -> History:
    """What is not stored writes nothing, so it needs no lock and waits for nobody."""
    key = ids.parse_conversation_id(draft.conversation or "")
    if key is None:
        raise not_found(draft.conversation)
    if draft.is_stored:
        lock = Lock(caller.tenant_id, key, draft.id)
        return History(await _locked(db, caller, lock, terms, budget), lock)
    async with db.read(caller) as tx:
        reading = await conversation_locks.read(tx, key, budget=budget)
    if reading is None:
        raise not_found(draft.conversation)
    return History(reading.ancestry)


async def _locked(db: Database, caller: Caller, lock: Lock, terms: Terms, budget: int | None) -> Ancestry:
    last_look, pause = time.monotonic() + terms.wait_seconds, FIRST_PAUSE_SECONDS
    while True:
        async with db.autocommit(caller) as tx:
            reading = await conversation_locks.take(
                tx, lock, lease_seconds=terms.lease_seconds, budget=budget
            )
        if reading is None:
            raise not_found(ids.conversation_id(lock.conversation_id))
        if reading.is_free:
            return reading.ancestry
        if time.monotonic() >= last_look:
            raise locked()
        await asyncio.sleep(min(pause, max(last_look - time.monotonic(), 0)))
        pause = min(pause * 1.5, LONGEST_PAUSE_SECONDS)
        if await terms.is_abandoned():
            raise locked()


def not_found(conversation: str | None) -> NotFound:
    """The same words whether it never was, was deleted, or is another tenant's (law L7)."""
    return NotFound(f"Conversation with id '{conversation}' not found.")


def locked() -> Conflict:
    """400, never 409, which SDKs would retry by themselves (behaviours 116 and 145)."""
    return Conflict(
        "Another process is currently operating on this conversation. Please retry in a few seconds.",
        code="conversation_locked",
        param="conversation",
    )


def lost() -> ServiceError:
    """The run outlived its lease, as when its process stood still: SDKs try this again by themselves."""
    return ServiceError(
        "This response lost its conversation to another one while it ran; nothing of it was appended.",
        code="conversation_locked",
        param="conversation",
    )
