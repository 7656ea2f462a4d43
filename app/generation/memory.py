"""What one connection remembers of responses that are in no store: the most recent one of each lane."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial

from app import ids
from app.domain import compaction
from app.domain.remembered import Remembered, RememberedTurn
from app.domain.turn import Ancestry, Continuation, Place
from app.generation.accept import Accepted
from app.generation.composer import Composer
from app.generation.keeping import turn_of
from app.generation.memory_budget import Budget


class Memory:
    """A bounded number of bytes; what has been there for longest gives way to what comes."""

    def __init__(self, max_bytes: int, shared: Budget | None = None, *, tenant_id: int = 0) -> None:
        """`shared` bounds it together with others, of this tenant and the rest; `close` gives back what it
        has of that.
        """
        self._tenant_id = tenant_id
        self._budgets = (Budget(max_bytes), *((shared,) if shared else ()))
        self._latest: dict[str | None, Remembered] = {}

    def recall(self, response_id: str) -> Remembered | None:
        """What is known of a response, if it is the most recent one of some lane."""
        key = ids.parse_response_id(response_id)
        return next((each for each in self._latest.values() if each.id == key), None)

    def keep(self, lane: str | None, latest: Remembered | None) -> None:
        """Make this the most recent response of a lane; None for one that the store has."""
        self._forget(lane)
        if latest is None:
            return
        self._latest[lane] = latest
        for budget in self._budgets:
            if lane in self._latest:
                budget.hold(self._tenant_id, (self, lane), latest.size_bytes, partial(self._forget, lane))

    def evict(self, lane: str | None, response_id: str | None) -> None:
        """Forget the response that a lane failed to continue, if it is that lane's own."""
        latest = self._latest.get(lane)
        if latest and response_id and latest.id == ids.parse_response_id(response_id):
            self._forget(lane)

    def close(self) -> None:
        """Forget all."""
        for lane in list(self._latest):
            self._forget(lane)

    def _forget(self, lane: str | None) -> None:
        self._latest.pop(lane, None)
        for budget in self._budgets:
            budget.free(self._tenant_id, (self, lane))


def remember(accepted: Accepted, composer: Composer, upstream: str) -> Remembered | None:
    """What continuing a finished response needs; None if the store has it."""
    draft = accepted.draft
    if draft.is_stored:
        return None
    turn = turn_of(accepted, composer, upstream, Place(draft.id, 0))
    blob = b",".join(part for part in (turn.input_blob, turn.output_blob) if part)
    is_compacted = compaction.newest((*draft.input.items, *composer.output)) is not None
    stored, earlier = _before(accepted, is_compacted=is_compacted)
    return Remembered(
        id=draft.id,
        status=turn.status,
        stored=stored,
        turns=(*earlier, (blob, turn.continuation)),
        tokens=turn.context_tokens,
    )


def _before(accepted: Accepted, *, is_compacted: bool) -> tuple[Ancestry | None, tuple[RememberedTurn, ...]]:
    """What was before a turn, in the store and in none. A compaction item stands for all of it: then only
    the place in the store is left, and what the item cannot say.
    """
    stored, earlier = accepted.uncut, accepted.remembered.turns if accepted.remembered else ()
    if not is_compacted:
        return stored, earlier
    if stored is None:
        return None, tuple(_requests(earlier))
    return replace(stored, turns=()), tuple(_requests((*stored.turns, *earlier)))


def _requests(turns: Iterable[RememberedTurn]) -> Iterator[RememberedTurn]:
    """The upstream's ids of requests for approval: an answer may come later than a compaction."""
    for _, left in turns:
        ids_left = left.upstream_ids.items() if left else ()
        if left and (kept := {ours: theirs for ours, theirs in ids_left if ours.startswith("mcpr_")}):
            yield b"", Continuation(upstream=left.upstream, upstream_ids=kept)
