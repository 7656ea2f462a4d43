"""Items: normalised once at the edge, then opaque bytes.

A blob is one or more items as JSON objects joined by commas, without brackets: blobs are joined into
a context and compressed into a row without being decoded. Pairing calls with outputs is `calls`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson

from app import ids
from app.domain.gates import Gated, gated_fields
from app.domain.tools import secret_in
from app.errors import InvalidRequest, NotFound

_REFERENCE = "item_reference"

_WITH_STATUS = frozenset(
    {
        "message",
        "function_call",
        "function_call_output",
        "custom_tool_call",
        "custom_tool_call_output",
        "computer_call",
        "computer_call_output",
        "local_shell_call",
        "local_shell_call_output",
        "shell_call",
        "shell_call_output",
        "apply_patch_call",
        "apply_patch_call_output",
        "tool_search_call",
        "tool_search_output",
    }
)
"""Types whose resource form has a `status` that a client may leave out (reference: "Items").

Hosted calls must bring theirs, and an `mcp_call` without one may have failed: none is invented for it.
"""


@dataclass(frozen=True, slots=True)
class InputItems:
    """The new input of one request, normalised."""

    items: Sequence[dict[str, Any]]
    """In the resource form: every item has `id`, `type` and, where the form has one, `status`."""
    blob: bytes
    """The same items as JSON, joined by commas: what is stored and sent."""
    gated: Gated


NO_ITEMS = InputItems((), b"", Gated.NONE)


def normalise(value: str | Sequence[dict[str, Any]], response: UUID, *, param: str = "input") -> InputItems:
    """The items of a create's `input` (already validated) in the form in which they are kept.

    References stay in their place: see `references` and `resolve`. Whatever an item has beside its
    head is kept as it came. Normalising a result again changes nothing. That no id stands twice is
    checked where the whole context is known.

    Args:
        param: what the request calls them, for errors.

    Raises:
        InvalidRequest: a tool in an item brings a secret, or a value is nested too deeply (254 levels)
            to be written as JSON again.
    """
    if isinstance(value, str):
        return _seal([_message({"role": "user", "content": value}, ids.item_id("message", response, 0))])
    items = [_item(item, response, place) for place, item in enumerate(value)]
    _refuse_secrets(items, param)
    return _seal(items, param)


def references(items: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The ids of stored items that this input names instead of sending them."""
    return tuple(item["id"] for item in items if item["type"] == _REFERENCE)


def resolve(value: InputItems, found: Mapping[str, dict[str, Any]]) -> InputItems:
    """The same input with each reference replaced by the stored item of that id (behaviour 25).

    Raises:
        NotFound: nothing was found for a reference; the words are the same whether the item never
            was, was not stored, or is another tenant's.
    """
    if not (wanted := references(value.items)):
        return value
    for name in wanted:
        if name not in found:
            raise NotFound(
                f"Item with id '{name}' not found. Items are not persisted when `store` is set to false. "
                "Try again with `store` set to true, or remove this item from your input.",
                param="input",
            )
    return _seal([found[item["id"]] if item["type"] == _REFERENCE else item for item in value.items])


def prepend(extra: Sequence[dict[str, Any]], value: InputItems, response: UUID) -> InputItems:
    """The same input behind some items more, which are in the resource form but may lack their `id`.

    An id that we minted tells the item's place, so it is minted anew for the new one; ids that somebody
    brought stay.
    """
    if not extra:
        return value
    put = [
        _with_id(item, response, place) if not item.get("id") else item for place, item in enumerate(extra)
    ]
    for place, item in enumerate(value.items):
        is_minted = item["id"] == ids.item_id(item["type"], response, place)
        put.append(_with_id(item, response, len(put)) if is_minted else item)
    return _seal(put)


def aliases(
    items: Sequence[Mapping[str, Any]], turn: UUID, *, is_listed: bool
) -> tuple[tuple[int, str], ...]:
    """The places and ids of those items whose ids somebody brought, from elsewhere or from an unstored turn.

    Args:
        is_listed: whether the items are found by ids within a list of their own, as in a conversation;
            if not, an id of ours names the stored turn where the item was first, and that is enough.
    """
    return tuple(
        (place, item["id"])
        for place, item in enumerate(items)
        if item["id"] != ids.item_id(item["type"], turn, place)
        and (is_listed or not ids.names_row(item["id"]))
    )


def join(items: Sequence[Mapping[str, Any]]) -> bytes:
    """The items as one blob."""
    return orjson.dumps(items)[1:-1]


def split(blob: bytes) -> list[dict[str, Any]]:
    """The items of one blob."""
    return orjson.loads(b"[%b]" % blob)


def _with_id(item: dict[str, Any], response: UUID, place: int) -> dict[str, Any]:
    """The item under the id that we mint for this place."""
    head = {"id": ids.item_id(item["type"], response, place)}
    return {**head, **item, **head}


def _item(item: dict[str, Any], response: UUID, place: int) -> dict[str, Any]:
    kind = item.get("type") or ("message" if "role" in item else _REFERENCE)
    if kind == _REFERENCE:
        return {"type": _REFERENCE, "id": item["id"]}
    name = item.get("id") or ids.item_id(kind, response, place)
    if kind == "message":
        return _message(item, name)
    head = {"id": name, "type": kind}
    if kind in _WITH_STATUS:
        head["status"] = item.get("status") or "completed"
    # The first copy of the head decides the order of the keys, the second their values.
    return {**head, **item, **head}


def _message(item: dict[str, Any], name: str) -> dict[str, Any]:
    """A message with its content as parts (behaviours 20 and 21)."""
    content = item["content"]
    if isinstance(content, str):
        content = [_text_part(item["role"], content)]
    else:
        content = [whole_part(part) for part in content]
    head = {
        "id": name,
        "type": "message",
        "status": item.get("status") or "completed",
        "role": item["role"],
        "content": content,
    }
    return {**head, **item, **head}


def whole_part(part: dict[str, Any]) -> dict[str, Any]:
    """An image says how closely it is looked at: the published schema has no part without it."""
    if part["type"] != "input_image" or part.get("detail"):
        return part
    return {**part, "detail": "auto"}


def _text_part(role: str, text: str) -> dict[str, Any]:
    if role == "assistant":
        return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}
    return {"type": "input_text", "text": text}


def _seal(items: list[dict[str, Any]], param: str = "input") -> InputItems:
    try:
        blob = join(items)
    except orjson.JSONEncodeError as error:
        raise InvalidRequest(f"Invalid '{param}': {error}.", code="invalid_value", param=param) from error
    return InputItems(items, blob, gated_fields(items))


def _refuse_secrets(items: Sequence[Mapping[str, Any]], param: str) -> None:
    """Items are stored and given back as they came, so a secret must not be in one (behaviour 42)."""
    for place, item in enumerate(items):
        if item["type"] not in {"additional_tools", "tool_search_output"}:
            continue
        for index, tool in enumerate(item["tools"]):
            if path := secret_in(tool):
                name = f"{param}[{place}].tools[{index}].{path}"
                raise InvalidRequest(
                    f"Unsupported parameter: '{name}'. Input items are stored, so they cannot carry secrets. "
                    "Send this tool in 'tools' instead.",
                    code="unsupported_parameter",
                    param=name,
                )
