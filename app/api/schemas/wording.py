"""Pydantic's errors in OpenAI's words."""

from collections.abc import Callable
from re import findall, fullmatch, match
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from app.api.schemas import refusals
from app.api.schemas.bounds import ID_TAIL, URL
from app.api.schemas.unions import MARK, REFUSED
from app.errors import InvalidRequest

MAX_ERRORS = 1000
"""Listing errors takes microseconds for each, and a hostile body can hold millions."""

# Accepted because the official clients know them; the live service does not list them.
_UNLISTED = {"scale", "ultrafast"}

_EXPECTED = {
    "string_type": "a string",
    "int_type": "an integer",
    "float_type": "a decimal",
    "bool_type": "a boolean",
    "dict_type": "an object",
    "list_type": "an array of objects",
}


def first_refusal(error: ValidationError) -> InvalidRequest:
    """Word the first error, which is the first in the order in which the fields are declared."""
    if error.error_count() > MAX_ERRORS:
        return InvalidRequest("Invalid body: too many errors to tell one.", code="invalid_value")
    return _refusal(error.errors(include_url=False)[0])


def _path(error: ErrorDetails) -> str:
    """Write an error's place as OpenAI does, `input[0].content[0].text`, without the names of variants."""
    path = ""
    for part in error["loc"]:
        if isinstance(part, int):
            path += f"[{part}]"
        elif not part.startswith(MARK):
            path += f".{refusals.clip(part)}" if path else part
    return path


def _refusal(error: ErrorDetails) -> InvalidRequest:
    """Word an error of pydantic's as OpenAI would have."""
    kind, path, value, context = error["type"], _path(error), error["input"], error.get("ctx", {})
    if kind == REFUSED:
        return context["refuse"](value, path)
    if kind in _EXPECTED:
        return refusals.wrong_type(path, _EXPECTED[kind], value)
    return _WORDINGS[kind](path, value, context)


def _wrong_literal(path: str, value: Any, context: dict[str, Any]) -> InvalidRequest:
    supported = [name for name in findall(r"'([^']*)'", context["expected"]) if name not in _UNLISTED]
    if isinstance(value, str):
        return refusals.wrong_value(path, value, supported)
    return refusals.wrong_type(path, refusals.alternatives(supported), value)


def _long_string(path: str, value: str, context: dict[str, Any]) -> InvalidRequest:
    limit = context["max_length"]
    key_place = f".{refusals.clip(value)}.[key]"
    if path.endswith(key_place):
        return refusals.long_property_name(path.removesuffix(key_place), value, limit)
    return refusals.too_long(path, "string", len(value), limit)


def _long_container(path: str, value: Any, context: dict[str, Any]) -> InvalidRequest:
    if isinstance(value, dict):
        return refusals.too_many_properties(path, len(value), context["max_length"])
    return refusals.too_long(path, "array", len(value), context["max_length"])


def _wrong_pattern(path: str, value: str, context: dict[str, Any]) -> InvalidRequest:
    pattern: str = context["pattern"]
    if pattern == URL:
        return refusals.wrong_url(path)
    if not pattern.endswith(ID_TAIL):
        return refusals.wrong_pattern(path, pattern)
    prefix = match(r"\^\(\?:(\w+)", pattern)
    if prefix and fullmatch(ID_TAIL, value):
        return refusals.wrong_id(path, value, f"begins with '{prefix[1]}'")
    return refusals.wrong_id(
        path,
        value,
        "contains letters, numbers, underscores, or dashes, but this value contained additional characters",
    )


_WORDINGS: dict[str, Callable[[str, Any, dict[str, Any]], InvalidRequest]] = {
    "missing": lambda path, _, __: refusals.missing(path),
    "extra_forbidden": lambda path, _, __: refusals.unknown(path),
    "literal_error": _wrong_literal,
    "string_too_short": lambda path, _, __: refusals.empty(path, "string"),
    "string_too_long": _long_string,
    "string_pattern_mismatch": _wrong_pattern,
    "too_short": lambda path, _, __: refusals.empty(path, "array"),
    "too_long": _long_container,
    "greater_than_equal": lambda path, value, context: refusals.out_of_range(
        path, value, context["ge"], is_minimum=True
    ),
    "less_than_equal": lambda path, value, context: refusals.out_of_range(
        path, value, context["le"], is_minimum=False
    ),
}
