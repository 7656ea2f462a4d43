"""What a next turn would be given, and how much that is, without making one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from app import ids
from app.domain import compaction, tokens
from app.domain.calls import CALLS
from app.domain.compaction import MARK, Unfolded
from app.domain.gates import Gated
from app.domain.items import NO_ITEMS, InputItems, join, split
from app.domain.response import Draft
from app.domain.tenancy import Caller
from app.domain.turn import Ancestry, Continuation
from app.errors import InvalidRequest
from app.generation import history
from app.generation.accept import Accepted
from app.generation.history import Terms
from app.store.db import Database


@dataclass(frozen=True, slots=True)
class Preview:
    """The history of a turn that nobody has asked for yet."""

    history: Ancestry | None
    """As much of it as would be sent; all of it where it could not be."""
    is_truncated: bool = False
    """Whether older items stay behind."""
    exceeds_window: bool = False
    """Whether no new input at all can be brought: it would be refused with `context_length_exceeded`."""

    @property
    def items(self) -> list[dict[str, Any]]:
        """Oldest first, with all that is gated: the model is given it too. Where the history was compacted,
        the newest compaction item comes first: it stands for what was before it. Orders to compact that were
        carried out are not given to any.
        """
        found = (item for blob in _blobs(self.history) for item in split(blob))
        items = [item for item in found if item["type"] != compaction.TRIGGER]
        return items[compaction.newest(items) or 0 :]

    @property
    def tokens(self) -> int:
        """The estimate that is compared with the model's window; a compaction item counts as it is kept."""
        if any(MARK in blob for blob in _blobs(self.history)):
            return compaction.estimate(self.items)
        return _estimate(self.history)

    @property
    def open_calls(self) -> Mapping[str, str]:
        """Tool calls for which the new input has to bring outputs: call id to item type."""
        return _continuation(self.history).open_calls


async def preview(
    db: Database, caller: Caller, params: Mapping[str, Any], window_tokens: int | None
) -> Preview:
    """See the history as a next turn would have it. Takes no lock and waits for nobody.

    Args:
        params: what its request would say of it: `previous_response_id` or `conversation`, `truncation`.
        window_tokens: of the model; None applies no limit.

    Raises:
        InvalidRequest: the previous response cannot be continued.
        NotFound: there is no such conversation.
    """
    draft = _next_turn(params)
    before = await _read(db, caller, draft, window_tokens)
    draft = replace(draft, input=_least_input(_continuation(before).open_calls))
    # What only stands in for an input must not take room away.
    room = None if window_tokens is None else window_tokens + tokens.estimate(draft.input.blob)
    try:
        fitting = history.fit(before, draft, room)
    except InvalidRequest:
        is_whole = before is None or before.is_whole
        return Preview(before if is_whole else await _read(db, caller, draft, None), exceeds_window=True)
    is_cut = before is not None and not before.is_whole
    return Preview(fitting, is_truncated=is_cut or _blobs(fitting) != _blobs(before))


def input_tokens(accepted: Accepted, unfold: Callable[[Sequence[bytes]], Unfolded]) -> int:
    """The estimate of all that the model would read: the history as it would be sent, the new input, the
    instructions, the tools, and the schema of the text.

    Args:
        unfold: reads a context that was compacted.

    Raises:
        InvalidRequest: it was, and cannot be read.
    """
    blobs = accepted.items("")
    if any(MARK in blob for blob in blobs):
        items = compaction.estimate(unfold(blobs).items)
    else:
        items = sum(map(tokens.estimate, blobs))
    return items + tokens.estimate_request(accepted.draft.params)


def _next_turn(params: Mapping[str, Any]) -> Draft:
    """A request that is never made. What is not stored takes no lock."""
    return Draft(id=ids.new_uuid(), model="", params={**params, "store": False}, input=NO_ITEMS, echo={})


async def _read(db: Database, caller: Caller, draft: Draft, window_tokens: int | None) -> Ancestry | None:
    return (await history.read(db, caller, draft, Terms(context_window_tokens=window_tokens))).ancestry


def _least_input(open_calls: Mapping[str, str]) -> InputItems:
    """What any next turn has to bring, which decides what may be left out: outputs, or else a message.

    An output keeps its call in the context, however old that is; before a message all may go.
    """
    outputs = [{"type": CALLS[kind], "id": name, "call_id": name} for name, kind in open_calls.items()]
    items: list[dict[str, Any]] = [*outputs] or [{"type": "message", "id": "", "role": "user", "content": []}]
    return InputItems(items, join(items), Gated.NONE)


def _blobs(ancestry: Ancestry | None) -> list[bytes]:
    return [blob for blob, _ in ancestry.turns if blob] if ancestry else []


def _continuation(ancestry: Ancestry | None) -> Continuation:
    return ancestry.continuation if ancestry else Continuation()


def _estimate(ancestry: Ancestry | None) -> int:
    """Turn by turn, as `history.fit` counts: so what fits is never more than there is room for."""
    return sum(map(tokens.estimate, _blobs(ancestry)))
