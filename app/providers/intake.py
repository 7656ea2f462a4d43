"""What an upstream says is checked before it goes further: whoever takes a delta may rely on its types.

A fold reads an upstream's words as if they kept to the protocol. Where they do not, the fold stumbles, or
carries on something of another type; either ends here, as the upstream's failure and not as ours.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, TypeVar

import orjson

from app.providers.answer_body import MAX_ANSWER_BYTES
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
from app.providers.upstream_errors import UpstreamErrors

MAX_TEXT_CHARS = 64 * 2**20
"""Of all deltas of one answer. No model says more; they are kept in memory until the answer is stored."""

MAX_ITEM_BYTES = MAX_ANSWER_BYTES
"""Of everything else in a streamed answer: as much as one that is not streamed may have."""

MAX_COUNT = 2**53
"""Of tokens: two of them can still be added, and every reader of JSON knows the sum exactly."""

Said = TypeVar("Said")

_TEXTS = ("id", "call_id", "name", "status", "arguments", "input", "code")
"""The fields of an item that are texts wherever they occur, but for those of `_FREE`."""
_FREE = {("tool_search_call", "arguments")}
"""Type and field of what a client is given as it came, whatever it is: no fold reads it."""
_OBJECTS = {"web_search_call": "action", "computer_call_output": "output"}
"""The fields of items that are read as objects, to find what only some readers may see."""
_COUNTS = ("input_tokens", "output_tokens", "total_tokens")
_DETAILS = {
    "input_tokens_details": ("cached_tokens", "cache_write_tokens"),
    "output_tokens_details": ("reasoning_tokens",),
}


class Intake:
    """The checks of one answer, and what has been taken in of it so far."""

    def __init__(self, errors: UpstreamErrors) -> None:
        self._errors = errors
        self._text_chars = 0
        self._item_bytes = 0

    def take(self, fold: Callable[[Said], Iterable[Delta]], said: Said) -> Iterator[Delta]:
        """The deltas that `fold` makes of what the upstream said.

        Raises:
            UpstreamError: it said that it failed, or it does not keep to its own protocol.
        """
        try:
            for delta in fold(said):
                self._CHECKS[type(delta)](self, delta)
                yield delta
        except (TypeError, AttributeError, LookupError, ValueError) as error:
            raise self._errors.broken(f"{type(error).__name__}: {error}") from error

    def _started(self, delta: Started) -> None:
        _is_name(delta.model, "model")
        _is_name(delta.upstream_id, "id")

    def _text(self, delta: TextDelta) -> None:
        _is_number(delta.slot)
        _is_number(delta.index)
        self._count_text(delta.text)
        if delta.logprobs:
            _are_objects(delta.logprobs, "logprobs")
            self._count_item(delta.logprobs)

    def _input(self, delta: InputDelta) -> None:
        _is_number(delta.slot)
        self._count_text(delta.text)

    def _part(self, delta: PartStarted) -> None:
        _is_number(delta.slot)
        _is_number(delta.index)

    def _part_finished(self, delta: PartFinished) -> None:
        _is_number(delta.slot)
        _is_number(delta.index)
        if delta.part is not None:
            _is_part(delta.part)
            self._count_item(delta.part)

    def _annotation(self, delta: AnnotationAdded) -> None:
        _is_number(delta.slot)
        _is_number(delta.index)
        _is_object(delta.annotation, "annotation")
        self._count_item(delta.annotation)

    def _progress(self, delta: Progress) -> None:
        _is_number(delta.slot)
        self._count_item(delta.fields)

    def _item(self, delta: ItemStarted | ItemFinished) -> None:
        _is_number(delta.slot)
        if delta.item is not None:
            _is_item(delta.item)
            self._count_item(delta.item)

    def _finished(self, delta: Finished) -> None:
        _is_text(delta.reason, "reason")
        for name in ("model", "service_tier"):
            _is_name(delta.echo.get(name), name)
        for name in ("temperature", "top_p"):
            _is_number(delta.echo.get(name, 0))
        if delta.usage is not None:
            _is_usage(delta.usage)
        self._count_item([delta.usage, dict(delta.echo)])

    def _count_text(self, text: Any) -> None:
        if not isinstance(text, str):
            raise TypeError("a delta is not a text")
        self._text_chars += len(text)
        if self._text_chars > MAX_TEXT_CHARS:
            raise ValueError(f"the answer has more than {MAX_TEXT_CHARS} characters")

    def _count_item(self, value: Any) -> None:
        """Count what can be written as JSON again where it will stand: within four levels of others."""
        self._item_bytes += len(orjson.dumps([[[[value]]]]))
        if self._item_bytes > MAX_ITEM_BYTES:
            raise ValueError(f"the answer's items have more than {MAX_ITEM_BYTES} bytes")

    _CHECKS: ClassVar[Mapping[type, Callable[..., None]]] = {
        Started: _started,
        ItemStarted: _item,
        PartStarted: _part,
        TextDelta: _text,
        AnnotationAdded: _annotation,
        PartFinished: _part_finished,
        InputDelta: _input,
        Progress: _progress,
        ItemFinished: _item,
        Finished: _finished,
    }


def _is_item(item: Any) -> None:
    _is_object(item, "item")
    if not isinstance(kind := item["type"], str):
        raise TypeError("an item's type is not a text")
    for name in _TEXTS:
        if (kind, name) not in _FREE:
            _is_text(item.get(name), name)
    if (field := _OBJECTS.get(kind)) and item.get(field) is not None:
        _is_object(item[field], field)
    if kind in {"message", "reasoning"}:
        for field in ("content", "summary"):
            _are_parts(item.get(field), field)


def _are_parts(parts: Any, name: str) -> None:
    if parts is not None:
        _are_objects(parts, name)
        for part in parts:
            _is_part(part)


def _is_part(part: Any) -> None:
    _is_object(part, "part")
    for name in ("type", "text", "refusal"):
        _is_text(part.get(name), name)
    for name in ("annotations", "logprobs"):
        if part.get(name) is not None:
            _are_objects(part[name], name)


def _is_usage(usage: Any) -> None:
    _is_object(usage, "usage")
    _are_counts(usage, _COUNTS)
    for name, counts in _DETAILS.items():
        if usage.get(name) is not None:
            _is_object(usage[name], name)
            _are_counts(usage[name], counts)


def _are_counts(value: Mapping[str, Any], names: Iterable[str]) -> None:
    for name in names:
        count = value.get(name)
        if count is not None and (type(count) is not int or not 0 <= count <= MAX_COUNT):
            raise TypeError(f"{name} is not a count")


def _is_number(value: Any) -> None:
    if not isinstance(value, int | float):
        raise TypeError("an index or a setting is not a number")


def _is_text(value: Any, name: str) -> None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{name} is not a text")


def _is_name(value: Any, name: str) -> None:
    """Names are kept in columns, and Postgres knows no NUL."""
    _is_text(value, name)
    if value and "\0" in value:
        raise ValueError(f"{name} has a NUL")


def _is_object(value: Any, name: str) -> None:
    if not isinstance(value, dict):
        raise TypeError(f"{name} is not an object")


def _are_objects(value: Any, name: str) -> None:
    if not isinstance(value, list | tuple) or not all(isinstance(each, dict) for each in value):
        raise TypeError(f"{name} is not a list of objects")
