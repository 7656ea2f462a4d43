"""From a draft to something that can be run: history resolved, tool calls checked."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import orjson

from app import ids
from app.domain import calls, interruptions, tokens
from app.domain.conversation import Lock
from app.domain.idempotency import KeyClaim
from app.domain.items import aliases, prepend, references, resolve
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

    def items(self, upstream: str) -> tuple[bytes, ...]:
        """The history and the new input, under the ids that this upstream gave to its own items."""
        known, found = dict[str, str](), list[bytes]()
        for blob, continuation in self.ancestry.turns if self.ancestry else ():
            theirs = continuation.upstream_ids if continuation and continuation.upstream == upstream else {}
            found.append(_approving(_as_upstream(blob, theirs), known))
            known.update(theirs)
        return (*found, _approving(self.draft.input.blob, known))


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
        draft = await _resolved(db, caller, draft)
        ancestry, draft = await _checked(db, caller, draft, found.ancestry, terms)
    except BaseException:
        if found.lock:
            await history.release(db, found.lock)
        raise
    return Accepted(draft, ancestry, found.lock)


async def _resolved(db: Database, caller: Caller, draft: Draft) -> Draft:
    """The draft with stored items in the place of references to them."""
    wanted = references(draft.input.items)
    if not wanted:
        return draft
    async with db.read(caller) as tx:
        return replace(draft, input=resolve(draft.input, await stored_items.find(tx, wanted)))


async def _checked(
    db: Database, caller: Caller, draft: Draft, ancestry: Ancestry | None, terms: Terms
) -> tuple[Ancestry | None, Draft]:
    left = ancestry.continuation if ancestry else Continuation()
    calls.refuse_unknown(left.orphans)
    if terms.on_open_tool_calls == "interrupt":
        draft = _interrupted(draft, left.open_calls)
    unexplained = calls.check(left.open_calls, draft.input.items)
    if unexplained:
        # Rare: an output for a call that was answered before. Only now is the history decoded.
        calls.check_known(unexplained, _history_items(ancestry))
    if brought := client_ids(draft.input.items, draft.id):
        refuse_duplicates(brought, await _known(db, caller, draft, ancestry, brought))
    return history.fit(ancestry, draft, terms.context_window_tokens), draft


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


def refuse_duplicates(brought: Sequence[str], known: Collection[str]) -> None:
    """No id may stand twice in one context (behaviour 26).

    Raises:
        InvalidRequest: one does.
    """
    seen = set(known)
    for item_id in brought:
        if item_id in seen:
            raise InvalidRequest(
                f"Duplicate item found with id {item_id}. "
                "Remove duplicate items from your input and try again.",
                param="input",
            )
        seen.add(item_id)


def _history_items(ancestry: Ancestry | None) -> list[Mapping[str, Any]]:
    blobs = [blob for blob, _ in ancestry.turns if blob] if ancestry else []
    return orjson.loads(b"[" + b",".join(blobs) + b"]")


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
