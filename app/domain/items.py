"""Items: normalised once at the edge, then opaque bytes."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import Any
from uuid import UUID


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


@dataclass(frozen=True, slots=True)
class InputItems:
    """The new input of one request, normalised."""

    items: Sequence[dict[str, Any]]
    """In the resource form: every item has `id`, `type` and, where the form has one, `status`."""
    blob: bytes
    """The same items as JSON, joined by commas: what is stored and sent."""
    gated: Gated


def normalise(value: str | Sequence[dict[str, Any]], response: UUID) -> InputItems:
    """The items of a create's `input` (already validated) in the form in which they are kept."""
    raise AssertionError(value, response)
