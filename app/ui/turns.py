"""One turn as it is read: its items in order, each call with what it was answered. Pure, and total."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.ui import entries, tool_items
from app.ui.entries import Answer, Entry, Whence
from app.ui.pieces import Allowance, Json, Piece, as_text, clipped, objects, of_content

MOST_ENTRIES = 200


@dataclass(frozen=True, slots=True)
class Turn:
    """What was given and what was made, or a part of it."""

    given: tuple[Entry, ...]
    made: tuple[Entry, ...]
    next_place: int | None = None
    """Where to read on, if this is not all."""


def read(
    given: Sequence[Json],
    made: Sequence[Json],
    *,
    before: Iterable[Json] = (),
    after: Iterable[Json] = (),
    first: int = 0,
    most: int = MOST_ENTRIES,
    allowance: Allowance | None = None,
) -> Turn:
    """Read a turn from its item number `first` on, as far as the allowance goes.

    Args:
        given: its input items.
        made: its output items.
        before: items of the turn that it follows, where the calls may be that its input answers.
        after: items of the turn that follows, where the answers to its own calls may be.
        first: where an earlier part ended.
        most: how many entries there may be.
        allowance: what the page has left to show.
    """
    paired = _Pairing([*given, *made], before, after)
    shown, place = list[Entry](), first
    allowance = allowance or Allowance()
    while place < len(paired.items) and len(shown) < most and not allowance.is_used_up:
        shown += paired.entry(place, allowance)
        place += 1
    return Turn(
        given=tuple(entry for entry in shown if entry.place < len(given)),
        made=tuple(entry for entry in shown if entry.place >= len(given)),
        next_place=place if place < len(paired.items) else None,
    )


def whole(
    items: Sequence[Json], place: int = 0, *, before: Iterable[Json] = (), after: Iterable[Json] = ()
) -> tuple[Entry, ...]:
    """One item of a turn by itself, with far more of its text than there, and as it was written."""
    alone = read(items, [], before=before, after=after, first=place, most=1, allowance=_ample()).given
    # An output that is shown with its call is nothing by itself, unless it is asked for.
    return alone if alone and alone[0].place == place else read([items[place]], [], allowance=_ample()).given


def _ample() -> Allowance:
    return Allowance(text_chars=2_000_000, markdown_chars=0, page_chars=4_000_000)


def unpaired(items: Iterable[Json]) -> tuple[bool, bool]:
    """Whether some outputs answer calls of an earlier turn, and whether some calls wait for a later one."""
    calls, outputs = set[str](), set[str]()
    for item in items:
        if name := entries.call_id_of(item):
            (outputs if entries.is_output(item) else calls).add(name)
    return bool(outputs - calls), bool(calls - outputs)


class _Pairing:
    """Items of a turn, and which of them answer which call."""

    def __init__(self, items: Sequence[Json], before: Iterable[Json], after: Iterable[Json]) -> None:
        self.items = items
        self._calls = {
            name for item in items if not entries.is_output(item) and (name := entries.call_id_of(item))
        }
        self._outputs = _by_call(items)
        self._later = _by_call(after)
        self._earlier = {
            name: item
            for item in before
            if not entries.is_output(item) and (name := entries.call_id_of(item))
        }

    def entry(self, place: int, allowance: Allowance) -> Iterator[Entry]:
        """What is shown for one item: nothing for an output that is shown with its call."""
        item = self.items[place]
        match entries.kind_of(item):
            case "message":
                yield entries.message(item, place, allowance)
            case "reasoning":
                yield entries.reasoning(item, place, allowance)
            case "call" if not entries.is_output(item):
                yield self._call(item, place, allowance)
            case "call":
                if entries.call_id_of(item) not in self._calls:
                    yield self._orphan(item, place, allowance)
            case "other":
                yield entries.other(item, place, allowance)

    def _call(self, item: Json, place: int, allowance: Allowance) -> Entry:
        entry = replace(
            entries.head(item, place, "call"),
            name=tool_items.name_of(item),
            pieces=tuple(tool_items.asked(item, allowance)),
        )
        whence: Whence = "here"
        if not (answers := self._outputs.get(entry.call_id)):
            answers, whence = self._later.get(entry.call_id), "later"
        if answers and entry.call_id:
            return replace(entry, answers=tuple(entries.answer(each, whence, allowance) for each in answers))
        own = tuple(tool_items.answered(item, allowance))
        if own:
            return replace(entry, answers=(Answer(own),))
        return replace(entry, is_open=bool(entry.call_id))

    def _orphan(self, item: Json, place: int, allowance: Allowance) -> Entry:
        """An output whose call is not in this turn: shown with it, if it is in the one before."""
        answer = entries.answer(item, "here", allowance)
        if call := self._earlier.get(entries.call_id_of(item)):
            asked = tuple(tool_items.asked(call, allowance))
            named = replace(entries.head(call, place, "call"), name=tool_items.name_of(call), pieces=asked)
            return replace(named, id=as_text(item.get("id")), answers=(answer,), whence="earlier")
        return replace(entries.head(item, place, "call"), answers=(answer,))


def _by_call(items: Iterable[Json]) -> dict[str, list[Json]]:
    found = dict[str, list[Json]]()
    for item in items:
        if entries.is_output(item) and (name := entries.call_id_of(item)):
            found.setdefault(name, []).append(item)
    return found


def gist(given: Sequence[Json], most: int = 160) -> str:
    """What was asked, in one line: the last that somebody said, or that outputs of tools were brought."""
    for item in reversed(given):
        if "role" in item and (said := " ".join(_texts(item.get("content"))).split()):
            return clipped(" ".join(said[:most]), most)
    outputs = sum(map(entries.is_output, given))
    return f"{outputs} tool output{'s' if outputs > 1 else ''}" if outputs else ""


def _texts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content[:2000]
    for part in objects(content):
        if isinstance(text := part.get("text"), str):
            yield text[:2000]


def instructions(value: Any, allowance: Allowance) -> tuple[Piece, ...]:
    """What the model was told beside its input: a text, or items."""
    if isinstance(value, list):
        return tuple(piece for item in objects(value) for piece in of_content(item.get("content"), allowance))
    return tuple(of_content(value, allowance))
