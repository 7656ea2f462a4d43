"""Fold a provider's deltas into output items, and say each step as a numbered event.

A pure fold: no I/O, no randomness beyond the padding of deltas, no clock but for the moment of the end.
Ids, indexes and sequence numbers are minted here and nowhere else. The grammar is the API's (reference:
"Streaming events"; surface notes §8.3): whatever order a provider reports in, what leaves here is
well-formed, and adds up to the response.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import orjson

from app import ids
from app.domain.call_ids import CallIds
from app.domain.events import Event, error_event, terminal_event
from app.domain.gates import Gated, gated_fields
from app.domain.jobs import SHOWN_BEFORE_OUTPUT, SHOWN_BY_QUEUEING
from app.domain.response import Draft, Status, snapshot
from app.domain.tools import ToolGate
from app.domain.turn import with_output
from app.errors import ServiceError
from app.generation.open_item import PARTS_OF, OpenItem, OpenPart, final_parts
from app.providers.base import (
    AnnotationAdded,
    Delta,
    Finished,
    InputDelta,
    ItemFinished,
    ItemStarted,
    PartFinished,
    PartStarted,
    Progress,
    Started,
    TextDelta,
)

_AFTER_INPUT = (".interpreting", ".completed", ".failed")
"""The steps of a hosted call that follow its whole input."""
_OF_NO_ITEM = "response.shell_call_command."
"""Steps that have no `item_id` (surface notes §8.2)."""


class Composer:
    """One response in the making.

    `feed` every delta, then `close`, store what `body` and `output_blob` hold, and only then say
    `terminal` (law L8). With `is_heard` false no event is made: only the result counts.
    """

    def __init__(
        self,
        draft: Draft,
        *,
        is_heard: bool = True,
        pads: bool = False,
        begins_at: int = 0,
        keeps_shape: bool = False,
    ) -> None:
        """Begin with nothing heard.

        Args:
            draft: The request.
            is_heard: Whether anybody listens to events.
            pads: Add `obfuscation` to deltas, so that their length on the wire tells nothing.
            keeps_shape: Remember in which steps the output was said, so that it can be said again.
            begins_at: How many events have been said before: the first that were said of a queued response.
        """
        self._draft = draft
        # Every delta of a response may share its padding: only the length must tell nothing.
        self._pad = os.urandom(8).hex().encode() if pads else b""
        self._is_heard = is_heard
        self._events: list[Event] = []
        self._next = begins_at
        self.shape: list[tuple[Any, ...]] | None = [] if keeps_shape else None
        self._gate = ToolGate(draft.params)
        self._call_ids = CallIds()
        self._items: list[OpenItem] = []
        self._slots: dict[int, OpenItem | None] = {}
        self._finished: Finished | None = None
        self._overrides: dict[str, Any] = {}
        self.is_started = False
        self.upstream_response_id: str | None = None
        self.status = Status.IN_PROGRESS
        self.output_blob = b""
        self.body = b""

    def feed(self, delta: Delta) -> list[Event]:
        """Take one delta in; the events it causes, possibly none."""
        kind = type(delta)
        if not self.is_started and kind is not Started:
            self._started(Started())
        self._HANDLERS[kind](self, delta)
        return self._drain()

    def close(self, status: Status | None = None, *, error: Mapping[str, Any] | None = None) -> list[Event]:
        """End the response; the last events before the terminal one.

        Args:
            status: The outcome, where the provider did not say it: failed or cancelled.
            error: `code` and `message` of a failed response.
        """
        end = self._finished
        self.status = status or (Status[end.status.upper()] if end else Status.FAILED)
        error = error or (end.error if end else None)
        for item in self._items:
            if not item.is_done:
                self._close_item(item, None, is_cut=self.status is not Status.COMPLETED)
        if self.status is Status.CANCELLED:
            self._items = []  # What was heard of it is shown nowhere (surface notes §4.4).
        self.output_blob = b",".join(item.json for item in self._items)
        if self.shape is not None:
            # What the request had said where the upstream decided otherwise: the first events showed it.
            echo = self._draft.echo
            asked = {key: echo[key] for key in self._overrides if key in echo}
            self._note("decided", asked, [key for key in self._overrides if key not in echo])
        completed_at = int(time.time()) if self.status is Status.COMPLETED else None
        self.body = orjson.dumps(
            self._snapshot(
                usage=end.usage if end else None,
                error=error,
                incomplete_reason=end.reason if end else None,
                completed_at=completed_at,
            )
        )
        return self._drain()

    def terminal(self) -> Event:
        """The one event that ends the stream. Call it after the commit (law L8)."""
        return terminal_event(self.status, self._next, self.json)

    def broken(self, error: ServiceError) -> Event:
        """The last event of a stream that must stop without an outcome."""
        event = error_event(error, self._next)
        self._next += 1
        return event

    def partial(self) -> dict[str, Any]:
        """What there was when the run was stopped: for the record of the attempt, not for the response."""
        for item in self._items:
            if not item.is_done:
                self._close_item(item, None, is_cut=True)
        return {"output": self.output, "usage": self.usage}

    @property
    def usage(self) -> Mapping[str, Any] | None:
        """What the upstream counted, once it has."""
        return self._finished.usage if self._finished else None

    @property
    def event_count(self) -> int:
        """How many events have been said, which is also the next sequence number."""
        return self._next

    @property
    def json(self) -> bytes:
        """The response object as `GET` will give it (law L2)."""
        return with_output(self.body, self.output_blob)

    @property
    def is_ended(self) -> bool:
        """Whether the provider has said how it ends."""
        return self._finished is not None

    @property
    def output(self) -> list[dict[str, Any]]:
        """The finished output items, in order."""
        return [item.final for item in self._items]

    @property
    def upstream_ids(self) -> dict[str, str]:
        """Our item ids to the upstream's own, where it gave any."""
        return {item.id: item.upstream_id for item in self._items if item.upstream_id}

    @property
    def gated(self) -> Gated:
        return gated_fields(self.output)

    @property
    def model(self) -> str:
        return self._overrides.get("model") or self._draft.model

    def _started(self, delta: Started) -> None:
        if self.is_started:
            return
        self.is_started = True
        self._note("started", delta.model)
        if delta.model:
            self._overrides["model"] = delta.model
        self.upstream_response_id = delta.upstream_id
        if self._is_heard and self._next < SHOWN_BEFORE_OUTPUT:
            rest = b',"response":' + orjson.dumps(self._snapshot())
            if self._next < SHOWN_BY_QUEUEING:
                self._say("response.created", rest)
            self._say("response.in_progress", rest)

    def _item_started(self, delta: ItemStarted) -> None:
        if delta.slot not in self._slots:
            self._slots[delta.slot] = self._open_item(delta.item)

    def _open_item(self, fixed: dict[str, Any]) -> OpenItem | None:
        """Begin an item, unless the request forbids this call (behaviours 38-40)."""
        if not self._gate.admits(fixed):
            return None
        index = len(self._items)
        place = len(self._draft.input.items) + index
        item_id = ids.item_id(fixed["type"], self._draft.id, place)
        item = OpenItem(self._call_ids.settled(fixed["type"], fixed, item_id), index, item_id)
        self._items.append(item)
        if self._is_heard:
            skeleton = item.skeleton()
            self._note("item", skeleton)
            self._say_added(item, skeleton)
        return item

    def _say_added(self, item: OpenItem, skeleton: Mapping[str, Any]) -> None:
        self._say("response.output_item.added", item.index_head + b',"item":' + orjson.dumps(skeleton))

    def _part_started(self, delta: PartStarted) -> None:
        item = self._slots.get(delta.slot)
        if item is not None and not item.is_done and delta.kind in PARTS_OF.get(item.kind, ()):
            self._open_part(item, delta.index, delta.kind)

    def _open_part(self, item: OpenItem, index: int, kind: str) -> OpenPart:
        """Begin a part. Within an item they follow each other, so the one before it ends."""
        if item.parts and not item.parts[-1].is_done:
            self._close_part(item.parts[-1], None)
        part = item.open_part(index, kind)
        self._note("part", item.output_index, kind)
        if self._is_heard:
            self._say(part.events.added, part.head + b',"part":' + orjson.dumps(part.zero()))
        return part

    def _text(self, delta: TextDelta) -> None:
        item = self._slots.get(delta.slot)
        if item is None or item.is_done or item.kind not in PARTS_OF:
            return
        part = item.current.get(delta.index)
        if part is None or part.is_done:
            part = self._open_part(item, delta.index, part.kind if part else PARTS_OF[item.kind][0])
        if delta.text or (delta.logprobs and part.kind == "output_text"):
            self._add_text(part, delta.text, delta.logprobs)

    def _add_text(self, part: OpenPart, text: str, logprobs: Sequence[dict[str, Any]] = ()) -> None:
        part.texts.append(text)
        self._note("text", part.output_index, len(text))
        part.logprobs.extend(logprobs)
        if self._is_heard:
            rest = part.head + b',"delta":' + orjson.dumps(text)
            if part.kind == "output_text":
                rest += b',"logprobs":' + (orjson.dumps(logprobs) if logprobs else b"[]")
            self._say(part.events.delta, rest + self._padding(text))

    def _annotation(self, delta: AnnotationAdded) -> None:
        item = self._slots.get(delta.slot)
        part = item.current.get(delta.index) if item else None
        if part is not None and not part.is_done and part.kind == "output_text":
            self._annotate(part, delta.annotation)

    def _annotate(self, part: OpenPart, annotation: dict[str, Any]) -> None:
        part.annotations.append(annotation)
        self._note("note", part.output_index)
        if self._is_heard:
            number = len(part.annotations) - 1
            rest = b',"annotation_index":%d,"annotation":%s' % (number, orjson.dumps(annotation))
            self._say("response.output_text.annotation.added", part.head + rest)

    def _part_finished(self, delta: PartFinished) -> None:
        item = self._slots.get(delta.slot)
        part = item.current.get(delta.index) if item else None
        if part is not None and not part.is_done:
            self._close_part(part, delta.part)

    def _close_part(self, part: OpenPart, final: Mapping[str, Any] | None) -> None:
        if missing := part.missing(final):
            self._add_text(part, missing)
        for annotation in part.missing_annotations(final):
            self._annotate(part, annotation)
        part.finish(final)
        self._note("part_done", part.output_index)
        if self._is_heard:
            self._say(part.events.done, part.head + part.done_fields())
            self._say(part.events.part_done, part.head + b',"part":' + orjson.dumps(part.final))

    def _input(self, delta: InputDelta) -> None:
        item = self._slots.get(delta.slot)
        if item is not None and not item.is_input_done and delta.text:
            self._add_input(item, delta.text)

    def _add_input(self, item: OpenItem, text: str) -> None:
        item.inputs.append(text)
        if self._is_heard and item.input:
            self._note("input", item.output_index, len(text))
            self._say(item.input.delta, item.head + b',"delta":' + orjson.dumps(text) + self._padding(text))

    def _close_input(self, item: OpenItem, final: Mapping[str, Any] | None) -> None:
        if item.input is None or item.is_input_done:
            return
        if missing := item.missing_input(final):
            self._add_input(item, missing)
        item.is_input_done = True
        self._note("input_done", item.output_index)
        if self._is_heard:
            whole = orjson.dumps("".join(item.inputs))
            rest = b',"%s":%s' % (item.input.field.encode(), whole)
            if item.kind == "function_call":
                rest += b',"name":' + orjson.dumps(item.name)
            self._say(item.input.done, item.head + rest)

    def _progress(self, delta: Progress) -> None:
        item = self._slots.get(delta.slot)
        if item is None or item.is_done:
            return
        if item.input and not item.is_input_done and delta.event.endswith(_AFTER_INPUT):
            if item.held or not item.inputs:
                # The finished item will bring the input, and then this may follow it.
                item.held.append(delta)
                return
            self._close_input(item, None)
        self._say_progress(item, delta)

    def _say_progress(self, item: OpenItem, delta: Progress) -> None:
        self._note("progress", item.output_index, delta.event, delta.fields)
        if self._is_heard:
            fields, text = orjson.dumps(delta.fields)[1:-1], delta.fields.get("delta")
            head = item.index_head if delta.event.startswith(_OF_NO_ITEM) else item.head
            padding = self._padding(text) if isinstance(text, str) else b""
            self._say(delta.event, head + (b"," + fields if fields else b"") + padding)

    def _item_finished(self, delta: ItemFinished) -> None:
        if delta.slot not in self._slots and delta.item:
            self._slots[delta.slot] = self._open_item(delta.item)
        item = self._slots.get(delta.slot)
        if item is not None and not item.is_done:
            self._close_item(item, delta.item, is_cut=False)

    def _close_item(self, item: OpenItem, given: Mapping[str, Any] | None, *, is_cut: bool) -> None:
        self._close_parts(item, given or {})
        self._close_input(item, given)
        for delta in item.held:
            self._say_progress(item, delta)
        given = self._call_ids.settled(item.kind, given, item.id) if given else None
        item.finish(given, is_cut=is_cut)
        self._note("done", item.output_index)
        if self._is_heard:
            self._say_item_done(item)

    def _say_item_done(self, item: OpenItem) -> None:
        self._say("response.output_item.done", item.index_head + b',"item":' + item.json)

    def _close_parts(self, item: OpenItem, given: Mapping[str, Any]) -> None:
        """Close what is open; a part that was never announced is announced and said now."""
        unsaid: list[dict[str, Any]] = []
        for number, final in final_parts(item.kind, given):
            known = item.parts_like(final["type"])
            if number >= len(known):
                unsaid.append(final)
            elif not known[number].is_done:
                self._close_part(known[number], final)
        if item.parts and not item.parts[-1].is_done:
            self._close_part(item.parts[-1], None)
        for final in unsaid:
            self._close_part(self._open_part(item, -1, final["type"]), final)

    def _end(self, delta: Finished) -> None:
        self._finished = delta
        self._overrides.update(delta.echo)

    _HANDLERS: ClassVar[Mapping[type, Callable[..., None]]] = {
        Started: _started,
        ItemStarted: _item_started,
        PartStarted: _part_started,
        TextDelta: _text,
        AnnotationAdded: _annotation,
        PartFinished: _part_finished,
        InputDelta: _input,
        Progress: _progress,
        ItemFinished: _item_finished,
        Finished: _end,
    }

    def _snapshot(self, **outcome: Any) -> dict[str, Any]:
        return snapshot(self._draft, status=self.status, output=[], echo_overrides=self._overrides, **outcome)

    def _padding(self, text: str) -> bytes:
        """Fill a delta up to a multiple of 16, so that its length does not give its text away."""
        return b',"obfuscation":"%s"' % self._pad[: -len(text) % 16] if self._pad else b""

    def _note(self, *step: Any) -> None:
        """Remember a step without its words: see `app.generation.rebuild`."""
        if self.shape is not None:
            self.shape.append(step)

    def _say(self, kind: str, rest: bytes) -> None:
        self._events.append(self._event(kind, rest))

    def _event(self, kind: str, rest: bytes) -> Event:
        number = self._next
        self._next += 1
        data = b'{"type":"%s","sequence_number":%d%s}' % (kind.encode(), number, rest)
        return Event(kind, number, data)

    def _drain(self) -> list[Event]:
        events, self._events = self._events, []
        return events
