"""Compaction: a long context becomes a short one that still holds what must not be lost.

What is made of it is a `Memory`, which travels sealed in a `compaction` item. Whatever stands before the
newest such item is given to no model any more, so a memory has to hold all of it: input messages word by
word, the tool calls that wait for an output, and a summary of the rest (docs/decisions/0031).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from app.domain import calls, tokens
from app.domain.items import join, split
from app.domain.truncation import calls_of, is_input
from app.errors import InvalidRequest

Item = Mapping[str, Any]
Items = Sequence[Item]

COMPACTION, TRIGGER = "compaction", "compaction_trigger"
MARK = b'"type":"compaction'
"""Without it a blob has neither of the two. A quote inside a string is escaped, so text cannot have it."""

SUMMARY_HEAD = "Summary of the conversation so far, made when it was compacted:\n\n"

_OURS = frozenset({COMPACTION, TRIGGER})
_STEERING = frozenset({"additional_tools", "configuration_update"})
_BROUGHT = _STEERING | {"mcp_approval_response"}
"""Beside messages and outputs, what models do not make."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What a compaction item stands for."""

    before: Items = ()
    """What was kept word by word of what the summary is about: input messages, and what steers the model."""
    summary: str = ""
    after: Items = ()
    """What follows the summary word by word: the input that was being answered, and open calls."""
    is_opaque: bool = False
    """Whether an upstream made it, so that only that one knows what is in it."""

    @property
    def items(self) -> list[Item]:
        """As a model is given it."""
        said = [summary_item(self.summary)] if self.summary else []
        return [*self.before, *said, *self.after]

    @property
    def open_calls(self) -> dict[str, str]:
        """The tool calls in it that wait for an output: call id to item type."""
        return calls.pair({}, self.items)[0]


EMPTY = Memory()
OPAQUE = Memory(is_opaque=True)


@dataclass(frozen=True, slots=True)
class Unfolded:
    """A context from its newest compaction item on."""

    memory: Memory
    history: Items
    """What came after that, up to what is to be answered now."""
    new: Items
    """What is to be answered now: the end of the new input, since clients may send their history with it."""
    is_triggered: bool
    """Whether the new input ends with the order to compact."""

    @property
    def items(self) -> list[Item]:
        """As a model is given it."""
        return [*self.memory.items, *self.history, *self.new]

    @property
    def messages(self) -> list[Item]:
        """The messages of the user that are known word by word."""
        known = (*self.memory.before, *self.memory.after, *self.history, *self.new)
        return [item for item in known if _is_of_user(item)]


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of a context."""

    before: Items
    after: Items
    summary: str
    """What was summed up before."""
    folded: Items
    """What the new summary has to stand for beside that."""

    def memory(self, summary: str) -> Memory:
        return Memory(self.before, summary, self.after)


def unfold(blobs: Sequence[bytes], memory_of: Callable[[Item], Memory]) -> Unfolded:
    """Read a context: the history, turn by turn, then the new input.

    Args:
        memory_of: opens a compaction item.
    """
    *turns, new = [split(blob) for blob in blobs] or [[]]
    history = list(chain.from_iterable(turns))
    items, is_ordered = [*history, *new], is_triggered(new)
    at = newest(items)
    memory = EMPTY if at is None else memory_of(items[at])
    if at is not None and memory.is_opaque:
        # Its maker may want the messages of the user beside it, as they are returned beside it.
        memory = replace(OPAQUE, before=[item for item in items[:at] if is_input(item)], after=[items[at]])
    left = [item for item in items[0 if at is None else at + 1 :] if item["type"] != TRIGGER]
    fresh = _fresh(left, min(len(left), sum(item["type"] != TRIGGER for item in new)))
    return Unfolded(memory, left[:fresh], left[fresh:], is_triggered=is_ordered)


def _fresh(items: Items, new_count: int) -> int:
    """The place behind the last item that a model made, or that of the new input."""
    for place in range(len(items) - 1, len(items) - new_count - 1, -1):
        if not _is_brought(items[place]):
            return place + 1
    return len(items) - new_count


def _is_brought(item: Item) -> bool:
    kind = item["type"]
    return is_input(item) or kind in _BROUGHT or kind.endswith("_output")


def newest(items: Items) -> int | None:
    """The place of the last compaction item."""
    return next((at for at in range(len(items) - 1, -1, -1) if items[at]["type"] == COMPACTION), None)


def is_in(items: Items) -> bool:
    """Whether there is a compaction item, or an order to make one."""
    return any(item["type"] in _OURS for item in items)


def is_triggered(items: Items) -> bool:
    """Whether an input orders to compact what stands before it."""
    return bool(items) and items[-1]["type"] == TRIGGER


def is_asked_for(params: Mapping[str, Any], items: Items) -> bool:
    """Whether a request asks for compaction, now or where the context is too long."""
    return bool(params.get("context_management")) or is_triggered(items)


def threshold(params: Mapping[str, Any], default: int) -> int | None:
    """The tokens from which on a request wants its context compacted; None if it does not."""
    wanted = [entry.get("compact_threshold") or default for entry in params.get("context_management") or ()]
    return min(wanted, default=None)


def plan(given: Unfolded, *, keep_tokens: int | None) -> Plan:
    """Decide what is kept and what is summed up.

    The new input is kept, unless the order to compact is all that there is to do; so are calls that wait
    for an output or have it in the new input, with their reasoning. A call and its output are never parted.

    Args:
        keep_tokens: so much of older messages of the user is kept, the newest first; None keeps all.
    """
    new = () if given.is_triggered else given.new
    last = given.new if given.is_triggered else ()
    old = [*given.memory.before, *given.memory.after, *given.history, *last]
    kept = _kept([*old, *new], len(old))
    folded = [item for at, item in enumerate(old) if at not in kept]
    after = [item for at, item in enumerate([*old, *new]) if at in kept]
    return Plan(
        before=_worth_keeping(folded, keep_tokens, keeps_last=not any(map(_is_of_user, after))),
        after=after,
        summary=given.memory.summary,
        folded=[item for item in folded if item["type"] not in _STEERING],
    )


def refuse_unknown_outputs(given: Unfolded) -> None:
    """See that every output answers a call of what is left of a context.

    Raises:
        InvalidRequest: one does not (behaviour 27): its call was answered before, and summed up.
    """
    calls.refuse_unknown(calls.pair({}, given.items)[1])


def estimate(items: Items) -> int:
    return tokens.estimate(join(items))


def summary_item(text: str) -> dict[str, Any]:
    """The summary as a model is given it: something that it said itself, so that nobody's words in it gain
    more authority than they had.
    """
    part = {"type": "output_text", "text": SUMMARY_HEAD + text}
    return {"type": "message", "role": "assistant", "content": [part]}


def not_keepable() -> InvalidRequest:
    """The refusal of a context that cannot be made short enough."""
    return InvalidRequest(
        "Your input exceeds the context window of this model even when it is compacted, because a compaction "
        "keeps the new input, open tool calls, and what steers the model word by word. "
        "Please adjust your input and try again.",
        code="context_length_exceeded",
        param="input",
    )


def _kept(items: Items, new_at: int) -> set[int]:
    """The places that no summary may replace; `new_at` is the new input's."""
    called = calls_of(items)
    answered = {call for place, call in enumerate(called) if call not in {place, -1}}
    kept = {
        place for place in range(len(items)) if place >= new_at or _is_open(items[place], place, answered)
    }
    needed = {called[place] for place in kept} - {-1}
    return kept | needed | set(chain.from_iterable(_thoughts(items, place) for place in kept | needed))


def _is_open(item: Item, place: int, answered: set[int]) -> bool:
    if place in answered or item["type"].endswith("_output"):
        return False
    return item["type"] == "mcp_approval_request" or bool(item.get("call_id"))


def _thoughts(items: Items, place: int) -> list[int]:
    """The reasoning that led to a call, alone or together with others: upstreams want it beside the call."""
    found = list[int]()
    if is_input(items[place]):
        return found
    for before in range(place - 1, -1, -1):
        if items[before]["type"] == "reasoning":
            found.append(before)
        elif not items[before].get("call_id") or items[before]["type"].endswith("_output"):
            break
    return found


def _worth_keeping(folded: Items, keep_tokens: int | None, *, keeps_last: bool) -> list[Item]:
    """Of what is summed up, what is kept word by word all the same. Instructions said twice are kept once.

    Args:
        keeps_last: whether the user's last message stays however long it is: it says what is being done.
    """
    found, left, said = list[Item](), keep_tokens, set[bytes]()
    for item in reversed(folded):
        if _is_of_user(item):
            left = None if left is None else left - estimate([item])
            if left is None or left >= 0 or keeps_last:
                found.append(item)
            keeps_last = False
        elif item["type"] in _STEERING:
            found.append(item)
        elif is_input(item) and (text := join([{"content": item["content"]}])) not in said:
            said.add(text)
            found.append(item)
    return found[::-1]


def _is_of_user(item: Item) -> bool:
    return is_input(item) and item["role"] == "user"
