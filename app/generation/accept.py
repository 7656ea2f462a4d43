"""From a draft to something that can be run: history resolved, tool calls checked."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import orjson

from app import ids
from app.domain import calls, compaction, interruptions, prompts, tokens
from app.domain.compaction import TRIGGER
from app.domain.conversation import Lock
from app.domain.idempotency import KeyClaim
from app.domain.items import aliases, join, prepend, references, resolve, split
from app.domain.remembered import Remembered
from app.domain.response import Draft
from app.domain.tenancy import Caller
from app.domain.turn import Ancestry, Continuation, Place
from app.errors import InvalidRequest
from app.generation import history
from app.generation.history import Terms
from app.store import conversation_items
from app.store import items as stored_items
from app.store.db import Database

DEFAULT_TERMS = Terms()


@dataclass(frozen=True, slots=True)
class Accepted:
    """A draft whose every promise can be kept."""

    draft: Draft
    ancestry: Ancestry | None
    lock: Lock | None = None
    """The right to append to a conversation; whoever accepts this has to give it back."""
    claim: KeyClaim | None = None
    """The right to be what an `Idempotency-Key` stands for; it ends where the response is stored."""
    remembered: Remembered | None = None
    """The previous response where it is in no store: the draft, if it will be stored, has its items."""
    uncut: Ancestry | None = None
    """The ancestry as it was read, for who remembers this response: another model may have more room."""

    @property
    def parent(self) -> UUID | None:
        return self.ancestry.parent if self.ancestry else None

    @property
    def place(self) -> Place:
        """Where the new turn stands, unless another child of its parent is first there."""
        if self.ancestry is None:
            return Place(self.draft.id, 0)
        place = self.ancestry.place.next()
        if self.ancestry.conversation and not self.draft.conversation:
            # Chained on a response of a conversation, which itself goes on without this (behaviour 16).
            return place.elsewhere(self.draft.id)
        return place

    @property
    def has_history(self) -> bool:
        if self.remembered:
            return True
        return self.ancestry is not None and any(blob for blob, _ in self.ancestry.turns)

    @property
    def context_tokens(self) -> int:
        """Estimate of the whole history, whether or not it is sent, and the new input."""
        before = self.ancestry.tokens if self.ancestry else 0
        return before + tokens.estimate(self.draft.input.blob)

    @property
    def conversation(self) -> UUID | None:
        named = self.draft.conversation
        return ids.parse_conversation_id(named) if named else None

    @property
    def aliases(self) -> tuple[tuple[int, str], ...]:
        if not self.draft.is_stored:
            return ()
        return aliases(self.draft.input.items, self.draft.id, is_listed=self.conversation is not None)

    @property
    def open_calls(self) -> Mapping[str, str]:
        """Tool calls that wait for an output although the new input is complete: it only compacts them."""
        if not compaction.is_triggered(self.draft.input.items):
            return {}
        return calls.pair(*_standing(self.draft, self.ancestry))[0]

    def items(self, upstream: str) -> tuple[bytes, ...]:
        """What a prompt says, the history and the new input; an upstream's own items have its own ids.

        What a compaction stands for is not among them, but for the turn that the newest one is in; nor are
        orders to compact that were carried out before: to most upstreams they are nothing.
        """
        known, begin = dict[str, str](), self._begin
        found = [join(said)] if (said := prompts.said(self.draft.params)) else []
        for place, (blob, continuation) in enumerate(self.ancestry.turns if self.ancestry else ()):
            theirs = continuation.upstream_ids if continuation and continuation.upstream == upstream else {}
            if place >= begin:
                given = _without_orders(blob, continuation)
                found.append(_approving(_as_upstream(given, theirs), known))
            known.update(theirs)
        carried = self.carried_ids(upstream)
        known.update(carried)
        return (*found, _approving(_as_upstream(self.draft.input.blob, carried), known))

    def carried_ids(self, upstream: str) -> Mapping[str, str]:
        """Of items that came into the new input because no store has them: our ids to the upstream's."""
        if self.remembered is None or not self.draft.is_stored:
            return {}
        return self.remembered.upstream_ids(upstream)

    @property
    def _begin(self) -> int:
        """The turn from which on the model is given the history: that of the newest compaction item."""
        turns = self.ancestry.turns if self.ancestry else ()
        if compaction.newest(self.draft.input.items) is not None:
            return len(turns)
        for place in range(len(turns) - 1, -1, -1):
            blob, left = turns[place]
            # What a conversation's client has taken out since is not there any more.
            if left is not None and left.is_compacted and compaction.newest(split(blob)) is not None:
                return place
        return 0


async def accept(db: Database, caller: Caller, draft: Draft, terms: Terms = DEFAULT_TERMS) -> Accepted:
    """Resolve what a draft refers to, and check what can only be checked then.

    A conversation stays locked for the response, until `history.release` or the end of its run.

    Raises:
        InvalidRequest: the parent cannot be chained on, tool calls and outputs do not pair, or the
            context is too long for the model.
        NotFound: there is no such conversation, or an `item_reference` names nothing of this tenant's.
        Conflict: another response runs in the conversation.
    """
    found = await history.read(db, caller, draft, terms)
    try:
        draft = await _resolved(db, caller, draft, terms)
        before, draft = _carried(found, draft, terms)
        ancestry, draft = await _checked(db, caller, draft, before, terms)
    except BaseException:
        if found.lock:
            await history.release(db, found.lock)
        raise
    return Accepted(draft, ancestry, found.lock, remembered=found.remembered, uncut=found.ancestry)


def _carried(found: history.History, draft: Draft, terms: Terms) -> tuple[Ancestry | None, Draft]:
    """The history and the draft, where a part of the history is in no store.

    A response that will be stored takes it in as input of its own: else who continues it, in another
    connection, would miss it.
    """
    if found.remembered is None:
        return found.ancestry, draft
    if not draft.is_stored:
        return found.remembered.ancestry(), draft
    carried = [item for item in found.remembered.items if item["type"] != TRIGGER]
    draft = replace(draft, input=prepend(carried, draft.input, draft.id))
    return found.ancestry, terms.opened(draft)


async def _resolved(db: Database, caller: Caller, draft: Draft, terms: Terms) -> Draft:
    """The draft with stored items in the place of references to them, compaction items too."""
    wanted = references(draft.input.items)
    if not wanted:
        return draft
    async with db.read(caller) as tx:
        found = await stored_items.find(tx, wanted)
    return terms.opened(replace(draft, input=resolve(draft.input, found)))


async def _checked(
    db: Database, caller: Caller, draft: Draft, ancestry: Ancestry | None, terms: Terms
) -> tuple[Ancestry | None, Draft]:
    left = ancestry.continuation if ancestry else Continuation()
    calls.refuse_unknown(left.orphans)
    leaves_open = compaction.is_triggered(draft.input.items)
    if terms.on_open_tool_calls == "interrupt" and draft.memory is None and not leaves_open:
        draft = _interrupted(draft, left.open_calls)
    standing = _standing(draft, ancestry)
    unexplained = calls.pair(*standing)[1] if leaves_open else calls.check(*standing)
    if unexplained and not (draft.memory and draft.memory.is_opaque):
        # Rare: an output for a call that was answered before. Only now is the history decoded.
        calls.check_known(unexplained, draft.memory.items if draft.memory else _history_items(ancestry))
    if brought := client_ids(draft.input.items, draft.id):
        refuse_duplicates(brought, await _known(db, caller, draft, ancestry, brought))
    return history.fit(ancestry, draft, terms.context_window_tokens), draft


def _standing(draft: Draft, ancestry: Ancestry | None) -> tuple[Mapping[str, str], Sequence[dict[str, Any]]]:
    """The tool calls that wait for an output, and the new input: both as from its compaction item on."""
    if draft.memory is None:
        return ancestry.continuation.open_calls if ancestry else {}, draft.input.items
    at = compaction.newest(draft.input.items)
    return draft.memory.open_calls, draft.input.items[0 if at is None else at + 1 :]


def _interrupted(draft: Draft, open_before: Mapping[str, str]) -> Draft:
    """Answer what the new input leaves open, so that a conversation whose client died can go on."""
    waiting, _ = calls.pair(open_before, draft.input.items)
    missing = {call_id: kind for call_id, kind in open_before.items() if call_id in waiting}
    if not missing:
        return draft
    return replace(draft, input=prepend(interruptions.outputs(missing), draft.input, draft.id))


async def _known(
    db: Database, caller: Caller, draft: Draft, ancestry: Ancestry | None, brought: Sequence[str]
) -> set[str]:
    """Which ids the history has already. A conversation is asked for these alone: it may be long."""
    if ancestry is None or not draft.conversation:
        return {item["id"] for item in _history_items(ancestry)}
    async with db.read(caller) as tx:
        return set(await conversation_items.find(tx, ancestry.place, brought))


def client_ids(items: Sequence[Mapping[str, Any]], turn: UUID) -> list[str]:
    """The ids that we have not just minted."""
    return [
        item["id"] for place, item in enumerate(items) if item["id"] != ids.item_id(item["type"], turn, place)
    ]


def refuse_duplicates(brought: Sequence[str], known: Collection[str], *, param: str = "input") -> None:
    """No id may stand twice in one context (behaviour 26). `param` is the field that brings the items.

    Raises:
        InvalidRequest: one does.
    """
    seen = set(known)
    for item_id in brought:
        if item_id in seen:
            raise InvalidRequest(
                f"Duplicate item found with id {item_id}. "
                "Remove duplicate items from your input and try again.",
                param=param,
            )
        seen.add(item_id)


def _history_items(ancestry: Ancestry | None) -> list[Mapping[str, Any]]:
    blobs = [blob for blob, _ in ancestry.turns if blob] if ancestry else []
    return orjson.loads(b"[" + b",".join(blobs) + b"]")


def _without_orders(blob: bytes, left: Continuation | None) -> bytes:
    """A turn without orders to compact, whether or not what they came to is still there."""
    if left is None or not left.is_compacted:
        return blob
    return join([item for item in split(blob) if item["type"] != TRIGGER])


# Neither of these can stand inside a JSON string unescaped.
_ID, _APPROVES = b'"id":', b'"approval_request_id":'


def _as_upstream(blob: bytes, known: Mapping[str, str]) -> bytes:
    """Put an upstream's own item ids back: it may have bound encrypted reasoning to them."""
    for ours, theirs in known.items():
        blob = blob.replace(_ID + orjson.dumps(ours), _ID + orjson.dumps(theirs), 1)
    return blob


def _approving(blob: bytes, known: Mapping[str, str]) -> bytes:
    """The same where an item names the request that it approves, in an earlier turn."""
    if _APPROVES not in blob:
        return blob
    for ours, theirs in known.items():
        blob = blob.replace(_APPROVES + orjson.dumps(ours), _APPROVES + orjson.dumps(theirs))
    return blob
