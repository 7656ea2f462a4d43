"""Prompts: what a create may refer to instead of sending it, with places that it fills in.

A template has instructions, messages and parameters. What is rendered of it stands before the history of
one turn and is kept by none: like instructions, it is not carried over (docs/decisions/0029).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from app.domain.items import normalise, whole_part

Template = Mapping[str, Any]
Message = dict[str, Any]
Value = str | Mapping[str, Any]
"""What fills a place: text, or a content part."""

RENDERED = "messages"
"""The key under which a resolved `prompt` parameter holds what was rendered. No client can send it."""

MAX_PROMPTS = 10_000
"""That one tenant may have: they are kept by hand or by a deployment, not by requests."""

MAX_VERSIONS = 1000
"""That one prompt may have: two a week for ten years."""

_ID = re.compile(r"pmpt_[A-Za-z0-9][A-Za-z0-9_-]{0,58}")
_PLACE = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_.-]{0,63})\s*\}\}")
_TEXTS = frozenset({"input_text", "output_text"})


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt beside its versions."""

    key: UUID
    """Its place among the prompts, and its name in the audit trail."""
    id: str
    name: str
    metadata: Mapping[str, str]
    latest: int
    pinned: int | None
    """The version that counts where none is asked for; None is always the latest."""

    @property
    def default(self) -> int:
        return self.pinned or self.latest


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a prompt, which nothing changes."""

    number: int
    created_at: datetime
    template: Template


class WrongVariable(Exception):
    """A template cannot be rendered, because of the variable that this names."""

    def __init__(self, variable: str) -> None:
        super().__init__(variable)
        self.variable = variable


class Missing(WrongVariable):
    """Nothing was given for a place."""


class Unknown(WrongVariable):
    """The template has no such place."""


class Misplaced(WrongVariable):
    """Only text can stand in what the assistant has said."""


class TooLarge(Exception):
    """What would be rendered is beyond all bounds; `size` is what it would come to."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


def is_id(text: str) -> bool:
    """Whether a prompt can be called that."""
    return _ID.fullmatch(text) is not None


def kept(template: Template) -> dict[str, Any]:
    """A checked template in the form in which it is stored: no nulls, and messages in parts."""
    said = {name: value for name, value in template.items() if value is not None}
    if messages := said.get("messages"):
        said["messages"] = [_without_name(item) for item in normalise(messages, UUID(int=0)).items]
    return said


def places(template: Template) -> tuple[str, ...]:
    """The names of all variables, in the order in which they first stand."""
    messages = [*instructed(template.get("instructions")), *template.get("messages", ())]
    return tuple(dict.fromkeys(_named(messages)))


def render(
    template: Template, variables: Mapping[str, Value], *, is_instructed: bool, max_bytes: int
) -> list[Message]:
    """The messages of a template with its places filled; before them its instructions, as a developer's.

    Args:
        template: as `kept` has made it.
        variables: what to fill them with, checked. One whose only place is displaced is not unknown.
        is_instructed: whether the request has instructions of its own, which displace the template's.
        max_bytes: of all values together, as often as they are put in.

    Raises:
        Missing: there is a place that nothing fills.
        Unknown: a variable has no place.
        Misplaced: an image or a file would stand in what the assistant has said.
        TooLarge: it would be more than `max_bytes`.
    """
    known = places(template)
    for name in variables:
        if name not in known:
            raise Unknown(name)
    messages = template.get("messages", ())
    if not is_instructed:
        messages = [*instructed(template.get("instructions")), *messages]
    _check_size(messages, variables, max_bytes)
    return [_filled(message, variables) for message in messages]


def instructed(text: str | None) -> list[Message]:
    """Instructions as a message, if there are any."""
    if not text:
        return []
    return [{"type": "message", "role": "developer", "content": [{"type": "input_text", "text": text}]}]


def said(params: Mapping[str, Any]) -> Sequence[Message]:
    """What the prompt of a create's resolved parameters puts before the history."""
    return (params.get("prompt") or {}).get(RENDERED, ())


def shown(prompt: Mapping[str, Any]) -> dict[str, Any]:
    """A `prompt` parameter as a response echoes it."""
    return {name: value for name, value in prompt.items() if name != RENDERED}


def _without_name(item: Message) -> Message:
    """A message that is said anew in every turn is no stored item, and has neither id nor status."""
    return {name: value for name, value in item.items() if name not in {"id", "status"} and value is not None}


def _named(messages: Sequence[Message]) -> Iterator[str]:
    """The name at every place, as often as it stands there."""
    for message in messages:
        for part in message["content"]:
            if part["type"] in _TEXTS:
                yield from _PLACE.findall(part["text"])


def _check_size(messages: Sequence[Message], variables: Mapping[str, Value], max_bytes: int) -> None:
    sizes = {name: len(orjson.dumps(value)) for name, value in variables.items()}
    size = sum(sizes.get(name, 0) for name in _named(messages))
    if size > max_bytes:
        raise TooLarge(size)


def _filled(message: Message, variables: Mapping[str, Value]) -> Message:
    parts = [filled for part in message["content"] for filled in _parts(part, variables)]
    if message["role"] == "assistant":
        for name, value in variables.items():
            if any(part is value for part in parts):
                raise Misplaced(name)
    return {**message, "content": [whole_part(part) for part in parts]}


def _parts(part: Message, variables: Mapping[str, Value]) -> list[Any]:
    """A text cut where something stands in it that is none. What else the part says goes with its end."""
    if part["type"] not in _TEXTS:
        return [part]
    put: list[Any] = []
    text = ""
    pieces = _PLACE.split(part["text"])
    for before, name in zip(pieces[::2], [*pieces[1::2], None], strict=True):
        text += before
        if name is None:
            break
        value = _value(variables, name)
        if isinstance(value, str):
            text += value
            continue
        put += [{"type": part["type"], "text": text}] if text else []
        put.append(value)
        text = ""
    if text or not put:
        put.append({**part, "text": text})
    return put


def _value(variables: Mapping[str, Value], name: str) -> str | Mapping[str, Any]:
    value = variables.get(name)
    if value is None:
        raise Missing(name)
    return value["text"] if isinstance(value, Mapping) and value["type"] == "input_text" else value
