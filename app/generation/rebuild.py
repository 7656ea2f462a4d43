"""Say a finished stream again after the journal has forgotten it.

The items hold every word; the shape holds in which steps they were said. Together they give the same
events under the same sequence numbers. What neither keeps is missing: the padding of deltas, and the
logprobs of each delta.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from app.domain.events import Event, terminal_event
from app.domain.gates import Gated
from app.domain.items import InputItems, split
from app.domain.jobs import SHOWN_BY_QUEUEING
from app.domain.response import Draft, Status, snapshot
from app.generation.composer import Composer
from app.generation.open_item import INPUT_EVENTS, PART_EVENTS, OpenItem, final_parts
from app.generation.queueing import queued_events
from app.providers.base import Progress, Started
from app.store.responses import StoredResponse

NO_STEPS: Sequence[Any] = (("decided", {}, ()),)


def rebuild(stored: StoredResponse, shape: bytes | None) -> list[Event]:
    """Every event before the terminal one; without a shape, those that the request alone decides.

    They are the beginning that every client waits for, whatever is missing after it.
    """
    *steps, (_, asked, added) = orjson.loads(shape) if shape else NO_STEPS
    draft = _draft(stored, asked, added)
    again = _Again(draft, split(stored.output_blob))
    events = list(queued_events(orjson.dumps(snapshot(draft, status=Status.QUEUED))))
    for step in steps:
        events += again.take(step)
    return events


def retell(stored: StoredResponse) -> list[Event]:
    """The whole stream of a foreground response, in as few steps as say it.

    Its journal was the connection alone, so nobody knows in which pieces it was said, nor what hosted tools
    reported of their progress.
    """
    finals = split(stored.output_blob)
    again = _Again(_draft(stored, {}, ()), finals, begins_at=0)
    events = again.take(("started", None))
    for index, final in enumerate(finals):
        for step in _steps(index, final):
            events += again.take(step)
    events.append(terminal_event(stored.status, len(events), stored.json()))
    return events


def _steps(index: int, final: dict[str, Any]) -> Iterator[Sequence[Any]]:
    """How a finished item is said at once, as `Composer` would have noted it."""
    kind = final["type"]
    yield "item", OpenItem(final, index, final["id"]).skeleton()
    for _, part in final_parts(kind, final):
        yield "part", index, part["type"]
        if text := part[PART_EVENTS[part["type"]].text_key]:
            yield "text", index, len(text)
        yield from (("note", index) for _ in part.get("annotations") or ())
        yield "part_done", index
    if kind in INPUT_EVENTS:
        if given := final[INPUT_EVENTS[kind].field]:
            yield "input", index, len(given)
        yield "input_done", index
    yield "done", index


def _draft(stored: StoredResponse, asked: Mapping[str, Any], added: Sequence[str]) -> Draft:
    """The finished response as a request: `snapshot` puts the outcome's fields back to their beginning."""
    body: dict[str, Any] = orjson.loads(stored.body)
    echo = {key: asked.get(key, value) for key, value in body.items() if key not in added}
    items = split(stored.input_blob)
    return Draft(stored.id, echo["model"], {}, InputItems(items, stored.input_blob, Gated.NONE), echo)


class _Again(Composer):
    """A composer that is told the steps it took, and takes the words from the finished items."""

    def __init__(
        self, draft: Draft, finals: Sequence[dict[str, Any]], *, begins_at: int = SHOWN_BY_QUEUEING
    ) -> None:
        super().__init__(draft, begins_at=begins_at)
        self._finals = finals
        self._said: dict[int, int] = {}

    def take(self, step: Sequence[Any]) -> list[Event]:
        """One step, as `Composer` noted it."""
        name, *rest = step
        if name == "started":
            return self.feed(Started(model=rest[0]))
        if name == "item":
            self._reopen_item(rest[0])
        else:
            place, *more = rest
            self._continue(name, self._items[place], self._finals[place], more)
        return self._drain()

    def _reopen_item(self, skeleton: Mapping[str, Any]) -> None:
        """Begin an item as it began; that it was allowed then is settled."""
        index = len(self._items)
        final = self._finals[index]
        self._items.append(OpenItem(final, index, final["id"]))
        self._say_added(self._items[index], skeleton)

    def _reclose_item(self, item: OpenItem, final: dict[str, Any]) -> None:
        item.final, item.json = final, orjson.dumps(final)
        self._say_item_done(item)

    def _continue(self, name: str, item: OpenItem, final: dict[str, Any], more: Sequence[Any]) -> None:
        if name == "part":
            self._said[item.output_index] = 0
            self._open_part(item, len(item.parts), more[0])
        elif name == "input":
            self._add_input(item, self._slice(item, final[INPUT_EVENTS[item.kind].field], more[0]))
        elif name == "input_done":
            self._close_input(item, None)
        elif name == "progress":
            self._say_progress(item, Progress(item.output_index, more[0], more[1]))
        elif name == "done":
            self._reclose_item(item, final)
        else:
            self._continue_part(name, item, final, more)

    def _continue_part(
        self, name: str, item: OpenItem, final: Mapping[str, Any], more: Sequence[Any]
    ) -> None:
        part = item.parts[-1]
        number = len(item.parts_like(part.kind)) - 1
        whole = next(
            each
            for place, each in final_parts(item.kind, final)
            if place == number and _is_counted_with(each["type"], part.kind)
        )
        if name == "text":
            self._add_text(part, self._slice(item, whole[part.events.text_key], more[0]))
        elif name == "note":
            self._annotate(part, whole["annotations"][len(part.annotations)])
        else:
            self._close_part(part, whole)

    def _slice(self, item: OpenItem, whole: str, length: int) -> str:
        begin = self._said.get(item.output_index, 0)
        self._said[item.output_index] = begin + length
        return whole[begin : begin + length]


def _is_counted_with(kind: str, other: str) -> bool:
    return PART_EVENTS[kind].index_key == PART_EVENTS[other].index_key
