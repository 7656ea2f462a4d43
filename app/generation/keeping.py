"""How a finished response reaches its row: a new one in the foreground, a claimed one in the background."""

from typing import Protocol

import orjson

from app.domain import calls, tokens
from app.domain.jobs import SHOWN_BEFORE_OUTPUT, Claim
from app.domain.response import CHAINABLE, Status
from app.domain.tenancy import Caller
from app.domain.turn import Continuation, Place, Turn
from app.errors import LeaseLost
from app.generation.accept import Accepted
from app.generation.composer import Composer
from app.generation.history import lost
from app.generation.idempotency import taken_over
from app.generation.journal import Entry
from app.generation.news import tell_followers
from app.store import attempts, idempotency, lifecycle
from app.store.db import Database, Tx


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
        continuation=_continuation(composer, upstream),
        context_tokens=accepted.context_tokens + tokens.estimate(composer.output_blob),
        conversation=accepted.conversation,
        aliases=accepted.aliases,
    )


def _continuation(composer: Composer, upstream: str) -> Continuation | None:
    open_calls, upstream_ids = calls.open_after(composer.output), composer.upstream_ids
    if not open_calls and not upstream_ids:
        return None
    return Continuation(open_calls, upstream, upstream_ids)


class NewRow:
    """The foreground: no row before the end, then one append."""

    is_promised = False

    def __init__(self, db: Database, caller: Caller, accepted: Accepted, upstream: str) -> None:
        self._db = db
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
        async with self._db.begin(self._caller) as tx:
            await self._end_claim(tx, turn.status)
            await lifecycle.append(tx, turn)
        return None

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
        claim: Claim,
        accepted: Accepted,
        upstream: str,
        *,
        entry: Entry | None,
        ttl_seconds: float,
    ) -> None:
        self._db = db
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
        turn = turn_of(self._accepted, composer, self._upstream, self._accepted.place)
        async with self._db.begin(Caller(self._claim.tenant_id)) as tx:
            is_ours = await lifecycle.finish(
                tx,
                self._claim,
                turn,
                event_count=composer.event_count,
                shape=orjson.dumps(composer.shape) if composer.shape else None,
                ttl_seconds=self._ttl_seconds,
            )
            if not is_ours and not await self._is_kept(tx, composer):
                raise LeaseLost
            await attempts.end(
                tx,
                self._claim,
                composer.status.wire,
                upstream_id=composer.upstream_response_id,
                detail=orjson.dumps({"usage": composer.usage}) if composer.usage else None,
            )
        if self._entry:
            await tell_followers(self._db, [self._claim.response_id])

    async def _is_kept(self, tx: Tx, composer: Composer) -> bool:
        """Whether an earlier try was committed and only its answer was lost."""
        row = await lifecycle.lock(tx, self._claim.response_id)
        return (
            row is not None
            and row["attempt"] == self._claim.attempt
            and Status(row["status"]) is composer.status
        )
