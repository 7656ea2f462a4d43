"""How a finished response reaches its row: a new one in the foreground, a claimed one in the background."""

from collections.abc import Awaitable, Callable
from typing import Protocol

import orjson

from app.domain import calls, compaction, tokens
from app.domain.jobs import SHOWN_BEFORE_OUTPUT, Claim, Ended, Ending
from app.domain.response import CHAINABLE, Status
from app.domain.tenancy import Caller
from app.domain.turn import Continuation, Place, Turn
from app.errors import LeaseLost
from app.generation.accept import Accepted
from app.generation.composer import Composer
from app.generation.history import lost, release
from app.generation.idempotency import release as release_key
from app.generation.idempotency import taken_over
from app.generation.journal import Entry
from app.generation.news import tell_followers
from app.store import idempotency, lifecycle
from app.store.db import Database, Tx
from app.store.endings import Endings
from app.store.entries import Entries


class Keeper(Protocol):
    """Where the engine puts what it has made."""

    @property
    def is_promised(self) -> bool:
        """Whether the response exists already, so that every failure has to end it."""
        ...

    def may_hand_back(self, composer: Composer) -> bool:
        """Whether a stopping server may leave this to another attempt, because nothing was shown of it."""
        ...

    async def keep(self, composer: Composer) -> None:
        """Commit the outcome; repeating it is harmless.

        Raises:
            LeaseLost: the outcome is not ours to write any more.
            Unavailable: Postgres is away.
        """
        ...

    async def give_back(self) -> None:
        """Let go of what is held for a response that is not kept; repeating it is harmless."""
        ...


def turn_of(accepted: Accepted, composer: Composer, upstream: str, place: Place) -> Turn:
    """The turn as it is stored."""
    draft = accepted.draft
    return Turn(
        id=draft.id,
        parent=accepted.parent,
        place=place,
        status=composer.status,
        model=composer.model,
        input_blob=draft.input.blob,
        input_count=len(draft.input.items),
        input_gated=draft.input.gated,
        output_blob=composer.output_blob,
        output_count=len(composer.output),
        output_gated=composer.gated,
        body=composer.body,
        continuation=_continuation(accepted, composer, upstream),
        context_tokens=accepted.context_tokens + tokens.estimate(composer.output_blob),
        conversation=accepted.conversation,
        aliases=accepted.aliases,
    )


def _continuation(accepted: Accepted, composer: Composer, upstream: str) -> Continuation | None:
    open_calls = {**accepted.open_calls, **calls.open_after(composer.output)}
    upstream_ids = {**accepted.carried_ids(upstream), **composer.upstream_ids}
    is_compacted = compaction.is_in((*accepted.draft.input.items, *composer.output))
    if not open_calls and not upstream_ids and not is_compacted:
        return None
    return Continuation(open_calls, upstream, upstream_ids, is_compacted=is_compacted)


class NewRow:
    """The foreground: no row before the end, then one append."""

    is_promised = False

    def __init__(
        self, db: Database, entries: Entries, caller: Caller, accepted: Accepted, upstream: str
    ) -> None:
        self._db = db
        self._entries = entries
        self._caller = caller
        self._accepted = accepted
        self._upstream = upstream
        self.has_released = accepted.lock is None
        """Whether the conversation's lock, if there is one, has ended with the response."""

    def may_hand_back(self, composer: Composer) -> bool:  # noqa: ARG002 - a client waits here
        return False

    async def keep(self, composer: Composer) -> None:
        draft = self._accepted.draft
        if not draft.is_stored:
            return None
        place = self._accepted.place
        if self._accepted.lock:
            return await self._keep_in_conversation(turn_of(self._accepted, composer, self._upstream, place))
        if place.seq and composer.status not in CHAINABLE:
            # Nobody will chain on it, so it leaves the line free for the next try.
            place = place.elsewhere(draft.id)
        turn = turn_of(self._accepted, composer, self._upstream, place)
        if self._accepted.claim is None and not turn.aliases:
            return await self._entries.append(self._caller, turn)
        async with self._db.begin(self._caller) as tx:
            await self._end_claim(tx, turn.status)
            await lifecycle.append(tx, turn)
        return None

    async def give_back(self) -> None:
        if lock := self._accepted.lock:
            await release(self._db, lock)
        if claim := self._accepted.claim:
            await release_key(self._db, claim)

    async def _keep_in_conversation(self, turn: Turn) -> None:
        async with self._db.begin(self._caller) as tx:
            await self._end_claim(tx, turn.status)
            if not await lifecycle.append_locked(tx, turn):
                raise lost()
        self.has_released = True

    async def _end_claim(self, tx: Tx, status: Status) -> None:
        """A response settles its key, but for one that its own client gave up: others still wait."""
        claim = self._accepted.claim
        if claim is None:
            return
        if status is Status.CANCELLED:
            await idempotency.release(tx, claim)
        elif not await idempotency.end(tx, claim):
            raise taken_over()


class ClaimedRow:
    """The background: the row was queued, and is finished only while the claim still stands."""

    is_promised = True

    def __init__(
        self,
        db: Database,
        endings: Endings,
        claim: Claim,
        accepted: Accepted,
        upstream: str,
        *,
        entry: Entry | None,
        ttl_seconds: float,
        ring_deliveries: Callable[[], Awaitable[None]],
    ) -> None:
        self._db = db
        self._endings = endings
        self._ring_deliveries = ring_deliveries
        self._claim = claim
        self._accepted = accepted
        self._upstream = upstream
        self._entry = entry
        self._ttl_seconds = ttl_seconds

    def may_hand_back(self, composer: Composer) -> bool:
        return self._entry is None or composer.event_count <= SHOWN_BEFORE_OUTPUT

    async def keep(self, composer: Composer) -> None:
        if self._entry:
            await self._entry.flushed()
        ended = await self._ended(self._ending(composer))
        if ended is None and not await self._is_kept(composer):
            raise LeaseLost
        # Of an end whose answer was lost nobody knows whether deliveries were queued with it.
        if ended is None or ended.deliveries:
            await self._ring_deliveries()
        if self._entry:
            await tell_followers(self._db, [self._claim.response_id])

    async def give_back(self) -> None:
        """Nothing: what was promised is kept, here or by another attempt."""

    def _ending(self, composer: Composer) -> Ending:
        return Ending(
            self._claim,
            turn_of(self._accepted, composer, self._upstream, self._accepted.place),
            event_count=composer.event_count,
            shape=orjson.dumps(composer.shape) if composer.shape else None,
            ttl_seconds=self._ttl_seconds,
            upstream_id=composer.upstream_response_id,
            usage=orjson.dumps({"usage": composer.usage}) if composer.usage else None,
        )

    async def _ended(self, ending: Ending) -> Ended | None:
        """Together with others where nothing else ends with it."""
        if not self._accepted.conversation:
            return await self._endings.finish(ending)
        async with self._db.begin(Caller(self._claim.tenant_id)) as tx:
            return await lifecycle.finish(tx, ending)

    async def _is_kept(self, composer: Composer) -> bool:
        """Whether an earlier try was committed and only its answer was lost."""
        async with self._db.begin(Caller(self._claim.tenant_id)) as tx:
            row = await lifecycle.lock(tx, self._claim.response_id)
        return (
            row is not None
            and row["attempt"] == self._claim.attempt
            and Status(row["status"]) is composer.status
        )
