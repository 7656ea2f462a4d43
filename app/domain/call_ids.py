"""The `call_id`s of one response, so that a client can answer each call (behaviour 30).

Clients answer by `call_id` alone, in at most 64 characters. Upstreams are less careful: gateways keep their
own state in ids of hundreds of characters, small servers give one id to all calls of an answer, or none.
"""

from collections.abc import Mapping
from typing import Any

from app.domain.calls import CALLS

MAX_CHARS = 64

_ALWAYS_ANSWERED = frozenset({"function_call", "custom_tool_call"})
"""Calls that no server runs: without an id they could not be answered at all."""


class CallIds:
    """What the calls of one response are called, in the order in which they begin."""

    def __init__(self) -> None:
        self._of_items: dict[str, str] = {}
        self._latest: dict[str, str] = {}
        self._taken = set[str]()

    def settled(self, kind: str, item: Mapping[str, Any], item_id: str) -> Mapping[str, Any]:
        """An upstream's item under the call id that it began with, or that it is given now.

        An output goes to the latest call to which the upstream had given its id.
        """
        given = item.get("call_id")
        if kind not in CALLS:
            name = self._latest.get(given, given) if given else given
        elif given or kind in _ALWAYS_ANSWERED:
            name = self._of_items.get(item_id) or self._named(given, item_id)
        else:
            name = given
        return item if name == given else {**item, "call_id": name}

    def _named(self, given: str | None, item_id: str) -> str:
        """The upstream's own id if a client can answer by it, else one that follows from the item's id."""
        is_good = given and len(given) <= MAX_CHARS and given not in self._taken
        name = given if given and is_good else "call_" + item_id.rpartition("_")[2]
        self._of_items[item_id] = name
        self._taken.add(name)
        if given:
            self._latest[given] = name
        return name
