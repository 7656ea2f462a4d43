"""Gated fields: parts of items that a reader sees only by asking for them with `include`.

They are always stored and always given to the model; gating is a matter of what is shown
(reference: "include"; behaviours 70 and 150). `reasoning.encrypted_content` is not among them: it is
returned by default, whether or not it is asked for.
"""

from collections.abc import Collection, Iterable, Mapping
from enum import IntFlag
from typing import Any


class Gated(IntFlag):
    """Fields that a reader sees only by asking for them with `include` (reference: "include")."""

    NONE = 0
    FILE_SEARCH_RESULTS = 1
    WEB_SEARCH_RESULTS = 2
    WEB_SEARCH_SOURCES = 4
    INPUT_IMAGE_URL = 8
    COMPUTER_SCREENSHOT_URL = 16
    CODE_INTERPRETER_OUTPUTS = 32
    LOGPROBS = 64


INCLUDES: Mapping[str, Gated] = {
    "file_search_call.results": Gated.FILE_SEARCH_RESULTS,
    "web_search_call.results": Gated.WEB_SEARCH_RESULTS,
    "web_search_call.action.sources": Gated.WEB_SEARCH_SOURCES,
    "message.input_image.image_url": Gated.INPUT_IMAGE_URL,
    "computer_call_output.output.image_url": Gated.COMPUTER_SCREENSHOT_URL,
    "code_interpreter_call.outputs": Gated.CODE_INTERPRETER_OUTPUTS,
    "reasoning.encrypted_content": Gated.NONE,
    "message.output_text.logprobs": Gated.LOGPROBS,
}
"""The eight values of `include`, and what each one opens."""

_PARTS: Mapping[str, tuple[Gated, str]] = {
    "input_image": (Gated.INPUT_IMAGE_URL, "image_url"),
    "output_text": (Gated.LOGPROBS, "logprobs"),
}
"""Of a message's content: the gate of a part, and its field."""

_FIELDS: Mapping[str, tuple[Gated, str]] = {
    "file_search_call": (Gated.FILE_SEARCH_RESULTS, "results"),
    "code_interpreter_call": (Gated.CODE_INTERPRETER_OUTPUTS, "outputs"),
}
"""Items with one gated field of their own, null when it is shut."""


def allowed(include: Collection[str]) -> Gated:
    """What a reader who sent this `include` may see."""
    gates = Gated.NONE
    for value in include:
        gates |= INCLUDES.get(value, Gated.NONE)
    return gates


def gated_fields(items: Iterable[Mapping[str, Any]]) -> Gated:
    """Which gated fields these items really have: null and empty ones hide nothing."""
    found = Gated.NONE
    for item in items:
        found |= _gated(item)
    return found


def hide(items: Iterable[dict[str, Any]], include: Collection[str]) -> list[dict[str, Any]]:
    """The items as this reader may see them. An item that hides nothing is given back itself, uncopied."""
    shut = ~allowed(include)
    return [_shut(item, gates) if (gates := _gated(item) & shut) else item for item in items]


def _gated(item: Mapping[str, Any]) -> Gated:
    kind = item["type"]
    if kind == "message":
        return _gated_parts(item.get("content"))
    if kind in _FIELDS:
        gate, field = _FIELDS[kind]
        return gate if item.get(field) else Gated.NONE
    if kind == "web_search_call":
        return _gated_search(item)
    if kind == "computer_call_output" and (item.get("output") or {}).get("image_url"):
        return Gated.COMPUTER_SCREENSHOT_URL
    return Gated.NONE


def _gated_parts(content: Any) -> Gated:
    found = Gated.NONE
    for part in content if isinstance(content, list) else ():
        gate, field = _PARTS.get(part.get("type"), (Gated.NONE, ""))
        if part.get(field):
            found |= gate
    return found


def _gated_search(item: Mapping[str, Any]) -> Gated:
    results = Gated.WEB_SEARCH_RESULTS if item.get("results") else Gated.NONE
    sources = Gated.WEB_SEARCH_SOURCES if (item.get("action") or {}).get("sources") else Gated.NONE
    return results | sources


def _shut(item: dict[str, Any], gates: Gated) -> dict[str, Any]:
    """A copy of the item without the fields behind these gates, every one of which it has."""
    kind = item["type"]
    if kind == "message":
        return {**item, "content": [_shut_part(part, gates) for part in item["content"]]}
    if kind in _FIELDS:
        return {**item, _FIELDS[kind][1]: None}
    if kind == "computer_call_output":
        return {**item, "output": {**item["output"], "image_url": None}}
    if Gated.WEB_SEARCH_RESULTS in gates:
        item = _without(item, "results")
    if Gated.WEB_SEARCH_SOURCES in gates:
        item = {**item, "action": _without(item["action"], "sources")}
    return item


def _shut_part(part: dict[str, Any], gates: Gated) -> dict[str, Any]:
    gate, field = _PARTS.get(part.get("type", ""), (Gated.NONE, ""))
    if not (gate & gates and part.get(field)):
        return part
    return {**part, field: [] if gate is Gated.LOGPROBS else None}


def _without(value: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: field for name, field in value.items() if name != key}
