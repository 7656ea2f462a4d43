"""Make the events of a finished stream again, after the journal has forgotten them.

The items hold every word; the shape holds in which steps they were said. Feeding both to the composer
gives the same events under the same sequence numbers. What no item keeps is missing: the padding of
deltas, the logprobs of each delta, and in `output_item.added` what was not yet known then.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from app.domain.events import Event
from app.domain.gates import Gated
from app.domain.items import InputItems, split
from app.domain.jobs import SHOWN_BY_QUEUEING
from app.domain.response import Draft, Status, snapshot
from app.generation.composer import Composer
from app.generation.open_item import INPUT_EVENTS, final_parts, head_of
from app.generation.queueing import queued_events
from app.providers.base import (
    AnnotationAdded,
    Delta,
    InputDelta,
    ItemFinished,
    ItemStarted,
    PartFinished,
    PartStarted,
    Progress,
    Started,
    TextDelta,
)
from app.store.responses import StoredResponse


def rebuild(stored: StoredResponse, shape: bytes) -> list[Event]:
    """Every event before the terminal one."""
    draft = _draft(stored)
    composer = Composer(draft, begins_at=SHOWN_BY_QUEUEING)
    told = [*queued_events(orjson.dumps(snapshot(draft, status=Status.QUEUED)))]
    told += composer.feed(Started())
    for delta in _deltas(split(stored.output_blob), orjson.loads(shape)):
        told += composer.feed(delta)
    return told


def _draft(stored: StoredResponse) -> Draft:
    """The finished response as a request: `snapshot` puts the outcome's fields back to their beginning."""
    body: dict[str, Any] = orjson.loads(stored.body)
    items = split(stored.input_blob)
    return Draft(stored.id, body["model"], {}, InputItems(items, stored.input_blob, Gated.NONE), body)


def _deltas(items: Sequence[dict[str, Any]], shape: Sequence[Sequence[Any]]) -> Iterator[Delta]:
    said = dict[Any, int]()
    for step, place, *rest in shape:
        final = items[place]
        if step == "item":
            yield ItemStarted(place, head_of(final))
        elif step == "part":
            yield PartStarted(place, rest[0], rest[1])
        elif step == "text":
            number, length = rest
            begin = said.get((place, number), 0)
            said[place, number] = begin + length
            yield TextDelta(place, number, _text(final, number)[begin : begin + length])
        elif step == "input":
            begin = said.get(place, 0)
            said[place] = begin + rest[0]
            whole = final[INPUT_EVENTS[final["type"]].field]
            yield InputDelta(place, whole[begin : begin + rest[0]])
        else:
            yield _closing(step, place, rest, final)


def _closing(step: str, place: int, rest: Sequence[Any], final: dict[str, Any]) -> Delta:
    if step == "note":
        return AnnotationAdded(place, rest[0], rest[1])
    if step == "progress":
        return Progress(place, rest[0], rest[1])
    if step == "part_done":
        return PartFinished(place, rest[0], dict(_part(final, rest[0])))
    return ItemFinished(place, final)


def _part(final: Mapping[str, Any], number: int) -> Mapping[str, Any]:
    return final_parts(final)[number][2]


def _text(final: Mapping[str, Any], number: int) -> str:
    part = _part(final, number)
    return part["refusal"] if part["type"] == "refusal" else part["text"]
