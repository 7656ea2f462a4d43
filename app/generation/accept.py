"""From a draft to something that can be run: history resolved, tool calls checked."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import orjson

from app import ids
from app.domain import calls
from app.domain.items import references, resolve
from app.domain.response import CHAINABLE, Draft
from app.domain.tenancy import Caller
from app.domain.turn import Ancestry, Continuation, Place
from app.errors import InvalidRequest
from app.store import items as stored_items
from app.store import lineage
from app.store.db import Database


@dataclass(frozen=True, slots=True)
class Accepted:
    """A draft whose every promise can be kept."""

    draft: Draft
    ancestry: Ancestry | None

    @property
    def parent(self) -> UUID | None:
        return self.ancestry.parent if self.ancestry else None

    @property
    def place(self) -> Place:
        """Where the new turn stands, unless another child of its parent is first there."""
        return self.ancestry.place.next() if self.ancestry else Place(self.draft.id, 0)

    def history(self, upstream: str) -> tuple[bytes, ...]:
        """All items before the new input, under the ids that this upstream gave to its own."""
        turns = self.ancestry.turns if self.ancestry else ()
        return tuple(_as_upstream(blob, continuation, upstream) for blob, continuation in turns)


async def accept(db: Database, caller: Caller, draft: Draft) -> Accepted:
    """Resolve what a draft refers to, in one round trip, and check what can only be checked then.

    Raises:
        InvalidRequest: the parent cannot be chained on, or tool calls and outputs do not pair.
        NotFound: an `item_reference` names nothing of this tenant's.
    """
    parent, wanted = draft.previous_response_id, references(draft.input.items)
    if parent is None and not wanted:
        _check(None, draft)
        return Accepted(draft, None)
    async with db.read(caller) as tx:
        ancestry = await _ancestry(tx, parent) if parent else None
        found = await stored_items.find(tx, wanted) if wanted else {}
    if wanted:
        draft = replace(draft, input=resolve(draft.input, found))
    _check(ancestry, draft)
    return Accepted(draft, ancestry)


async def _ancestry(tx: lineage.ReadTx, parent: str) -> Ancestry:
    """The parent's line; the same words for a parent that is absent, foreign, unstored or unfit (law L7)."""
    key = ids.parse_response_id(parent)
    ancestry = await lineage.ancestry(tx, key) if key else None
    if ancestry is None or ancestry.status not in CHAINABLE:
        raise InvalidRequest(
            f"Previous response with id '{parent}' not found.",
            code="previous_response_not_found",
            param="previous_response_id",
        )
    return ancestry


def _check(ancestry: Ancestry | None, draft: Draft) -> None:
    unexplained = calls.check(ancestry.open_calls if ancestry else {}, draft.input.items)
    if unexplained:
        # Rare: an output for a call that was answered before. Only now is the history decoded.
        calls.check_known(unexplained, _history_items(ancestry))
    _check_duplicates(ancestry, draft)


def _check_duplicates(ancestry: Ancestry | None, draft: Draft) -> None:
    """No id may stand twice in one context (behaviour 26). Those that we have just minted cannot."""
    brought = [
        item["id"]
        for place, item in enumerate(draft.input.items)
        if item["id"] != ids.item_id(item["type"], draft.id, place)
    ]
    if not brought:
        return
    seen = {item["id"] for item in _history_items(ancestry)}
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


def _as_upstream(blob: bytes, continuation: Continuation | None, upstream: str) -> bytes:
    """Put an upstream's own item ids back: it may have bound encrypted reasoning to them."""
    if continuation is None or continuation.upstream != upstream:
        return blob
    for ours, theirs in continuation.upstream_ids.items():
        # An unescaped `"id":"` cannot stand inside a JSON string, and our ids are unique.
        blob = blob.replace(b'"id":"%s"' % ours.encode(), b'"id":' + orjson.dumps(theirs), 1)
    return blob
