"""What of a long history is still sent (`truncation: "auto"`), and the refusal where nothing helps.

All counts are estimates: see `tokens`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from app.domain import calls
from app.domain.items import join, split
from app.domain.tokens import BYTES_PER_TOKEN, estimate, estimate_request, size
from app.errors import InvalidRequest

Items = Sequence[Mapping[str, Any]]

_INPUT_ROLES = frozenset({"user", "system", "developer"})


@dataclass(frozen=True, slots=True)
class Kept:
    """What is left of a history: `turns[start:]`, the first of them replaced by `head`."""

    start: int
    """The number of turns if nothing is left."""
    head: bytes
    """`turns[start]`, byte for byte, or a shorter suffix of its items; empty if nothing is left."""


def budget(window_tokens: int, params: Mapping[str, Any]) -> int:
    """The tokens that a model's context window leaves for items; below zero if the rest overfills it.

    Instructions, tools and schema go off, and room for as much output as the request allows, but no
    more than half the window: many clients name the largest number that is accepted.
    """
    room = min(params.get("max_output_tokens") or 0, window_tokens // 2)
    return window_tokens - estimate_request(params) - room


def too_long() -> InvalidRequest:
    """The refusal of an input that does not fit (behaviour 63)."""
    return InvalidRequest(
        "Your input exceeds the context window of this model. Please adjust your input and try again.",
        code="context_length_exceeded",
        param="input",
    )


def fit(turns: Sequence[bytes], new_input: bytes, budget_tokens: int, *, is_whole: bool = True) -> Kept:
    """Drop whole turns from the oldest until the rest fits together with the new input.

    A turn begins at an input message (of a user, system or developer) that does not follow another
    one, or with the new input. Nothing is dropped between a call and its outputs, also where they lie
    turns apart, nor between a reasoning item and what the model made of it. What is older than the
    budget reaches is not decoded, and nothing is if all fits.

    Args:
        turns: the items of each turn as they are stored, oldest first.
        new_input: the items of the request, references resolved.
        budget_tokens: see `budget`.
        is_whole: whether older turns were left unread; then the first of these may belong to them, and
            is not kept whole.

    Raises:
        InvalidRequest: as `too_long`; the new input does not fit, or not with the part of the history
            that it cannot be parted from.
    """
    left = budget_tokens - estimate(new_input)
    if left < 0:
        raise too_long()
    start = len(turns)
    while start and (cost := estimate(turns[start - 1])) <= left:
        start, left = start - 1, left - cost
    if start == 0 and (is_whole or not turns):
        return Kept(0, turns[0] if turns else b"")
    return _cut(turns, max(start - 1, 0), new_input, left)


def _cut(turns: Sequence[bytes], first: int, new_input: bytes, left_tokens: int) -> Kept:
    """Cut at the oldest permitted place behind the beginning of `turns[first]`.

    That turn does not fit, and all later ones do, leaving it `left_tokens`.
    """
    decoded = [split(blob) for blob in turns[first:]]
    fitting = _first_fitting(decoded[0], left_tokens)
    history = [item for items in decoded for item in items]
    if not history:
        return Kept(len(turns), b"")
    cuts = _cuts([*history, *split(new_input)], len(history))
    place = next((place for place in cuts if place >= fitting), None)
    if place is None:
        raise too_long()
    for index, items in enumerate(decoded, first):
        if place < len(items):
            return Kept(index, join(items[place:]) if place else turns[index])
        place -= len(items)
    return Kept(len(turns), b"")


def _first_fitting(items: Items, left_tokens: int) -> int:
    """The place in a turn from which on its items fit; its length if none does."""
    room = left_tokens * BYTES_PER_TOKEN + 1  # the last item has no comma behind it
    for place in range(len(items) - 1, 0, -1):
        room -= size(join([items[place]])) + 1
        if room < 0:
            return place + 1
    return min(1, len(items))


def _cuts(items: Items, new_at: int) -> Iterator[int]:
    """The places before which everything may be dropped, oldest first; `new_at` is the new input's.

    An empty new input cannot stand alone: there would be nothing to answer.
    """
    # The oldest item that each place and all later ones need.
    needed = list(accumulate(reversed(calls_of(items)), min))[::-1]
    for place in range(1, min(new_at + 1, len(items))):
        if needed[place] >= place and _is_beginning(items, place, new_at):
            yield place


def calls_of(items: Items) -> list[int]:
    """For each item the place of the call that it belongs to: its own place if it answers nothing, and
    -1 if the call lies further back. An id that is used again names the latest call.
    """
    made, found = dict[str, int](), list[int]()
    for place, item in enumerate(items):
        answered = _answered(item)
        if answered is not None:
            found.append(made.get(answered, -1))
            continue
        found.append(place)
        if name := item["id"] if item["type"] == "mcp_approval_request" else item.get("call_id"):
            made[name] = place
    return found


def _answered(item: Mapping[str, Any]) -> str | None:
    """The call that an item cannot be without. Unlike `calls`, this is about hosted ones too: a program
    that calls functions ends a turn or more after it began.
    """
    if item["type"].endswith("_output"):
        return calls.answered(item) or item.get("call_id")
    return item.get("approval_request_id")


def _is_beginning(items: Items, place: int, new_at: int) -> bool:
    before, after = items[place - 1], items[place]
    if place == new_at:
        return before["type"] != "reasoning" or is_input(after)
    return is_input(after) and not is_input(before)


def is_input(item: Mapping[str, Any]) -> bool:
    return item["type"] == "message" and item["role"] in _INPUT_ROLES
