"""The wording of OpenAI's request errors, one function per sentence (reference: "Error catalogue").

The sentences, their codes and their `param` are part of the interface: clients and their tests match them.
"""

from collections.abc import Sequence
from typing import Any

from app.errors import InvalidRequest

# What the live service spells out in full; longer names are cut to `pre..._id`.
_WHOLE_NAME = 12
# A client's own value is repeated to it up to here, so that an error never carries megabytes back.
_WHOLE_VALUE = 100
_NOUNS = {bool: "a boolean", int: "an integer", float: "a decimal number", str: "a string", list: "an array"}


def missing(path: str) -> InvalidRequest:
    return InvalidRequest(
        f"Missing required parameter: '{path}'.", code="missing_required_parameter", param=path
    )


def unknown(path: str, near: Sequence[str] = ()) -> InvalidRequest:
    hint = f" Did you mean {' or '.join(map(_quoted, near))}?" if near else ""
    return InvalidRequest(f"Unknown parameter: '{path}'.{hint}", code="unknown_parameter", param=path)


def moved(name: str, to: str) -> InvalidRequest:
    """For a parameter of Chat Completions; `param` is null, as measured."""
    return InvalidRequest(
        f"Unsupported parameter: '{name}'. In the Responses API, this parameter has moved to '{to}'. "
        "Try again with the new parameter. See the API documentation for more information: "
        "https://platform.openai.com/docs/api-reference/responses/create.",
        code="unsupported_parameter",
    )


def wrong_type(path: str, expected: str, value: Any) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid type for '{path}': expected {expected}, but got {_noun(value, path)} instead.",
        code="invalid_type",
        param=path,
    )


def wrong_body(value: Any) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid type for the body: expected an object, but got {_noun(value, '')} instead.",
        code="invalid_type",
    )


def wrong_value(path: str, value: str, supported: Sequence[str]) -> InvalidRequest:
    rule = (
        f"Supported values are: {listing(supported)}."
        if len(supported) > 1
        else f"Value must be '{supported[0]}'."
    )
    return InvalidRequest(f"Invalid value: {_quoted(clip(value))}. {rule}", code="invalid_value", param=path)


def out_of_range(path: str, value: float, limit: float, *, is_minimum: bool) -> InvalidRequest:
    """A float limit means that the parameter is a decimal, whatever was sent."""
    kind = "decimal" if isinstance(limit, float) else "integer"
    side, sign = ("below minimum", ">=") if is_minimum else ("above maximum", "<=")
    return InvalidRequest(
        f"Invalid '{path}': {kind} {side} value. Expected a value {sign} {limit:g}, but got {value} instead.",
        code=f"{kind}_{'below_min' if is_minimum else 'above_max'}_value",
        param=path,
    )


def too_long(path: str, kind: str, length: int, limit: int) -> InvalidRequest:
    article = "an" if kind == "array" else "a"
    return InvalidRequest(
        f"Invalid '{path}': {kind} too long. Expected {article} {kind} with maximum length {limit}, "
        f"but got {article} {kind} with length {length} instead.",
        code=f"{kind}_above_max_length",
        param=path,
    )


def empty(path: str, kind: str) -> InvalidRequest:
    article = "an" if kind == "array" else "a"
    return InvalidRequest(
        f"Invalid '{path}': empty {kind}. Expected {article} {kind} with minimum length 1, "
        f"but got an empty {kind} instead.",
        code=f"empty_{kind}",
        param=path,
    )


def too_many_properties(path: str, count: int, limit: int) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid '{path}': too many properties. Expected an object with at most {limit} properties, "
        f"but got an object with {count} properties instead.",
        code="object_above_max_properties",
        param=path,
    )


def long_property_name(path: str, name: str, limit: int) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid property name in '{path}': '{_short(name)}' is too long. "
        f"Expected a string with maximum length {limit}, but got a string with length {len(name)} instead.",
        code="property_name_above_max_length",
        param=f"{path}.{clip(name)}",
    )


def wrong_pattern(path: str, pattern: str) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid '{path}': string does not match pattern. "
        f"Expected a string that matches the pattern '{pattern}'.",
        code="invalid_value",
        param=path,
    )


def wrong_id(path: str, value: str, expected: str) -> InvalidRequest:
    """`expected` ends the sentence "Expected an ID that …"."""
    return InvalidRequest(
        f"Invalid '{path}': '{clip(value)}'. Expected an ID that {expected}.",
        code="invalid_value",
        param=path,
    )


def wrong_url(path: str) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid '{path}'. Expected a valid URL, but got a value with an invalid format.",
        code="invalid_value",
        param=path,
    )


def not_exactly_one(path: str, names: Sequence[str], given: int) -> InvalidRequest:
    """For fields of which an object holds exactly one, where it holds `given` of them."""
    if given:
        message = f"Mutually exclusive parameters: '{path}'. Ensure you are only providing one of"
    else:
        message = f"Missing mutually exclusive parameters: '{path}'. Ensure you are providing exactly one of"
    return InvalidRequest(
        f"{message}: {listing(names, 'or')}.",
        code=f"{'' if given else 'missing_'}mutually_exclusive_parameters",
        param=path,
    )


def alternatives(values: Sequence[str]) -> str:
    """Name a set of strings as what was expected: `one of 'auto' or 'disabled'`."""
    return f"one of {listing([_short(value) for value in values], 'or')}"


def listing(values: Sequence[str], last: str = "and") -> str:
    """Write `'a'`, `'a' and 'b'`, or `'a', 'b', and 'c'`."""
    quoted = [_quoted(value) for value in values]
    if len(quoted) < 3:
        return f" {last} ".join(quoted)
    return f"{', '.join(quoted[:-1])}, {last} {quoted[-1]}"


def clip(text: str) -> str:
    return text if len(text) <= _WHOLE_VALUE else _short(text)


def _short(name: str) -> str:
    return name if len(name) <= _WHOLE_NAME else f"{name[:3]}...{name[-3:]}"


def _quoted(text: str) -> str:
    return f"'{text}'"


def _noun(value: Any, path: str) -> str:
    """Name a JSON value's type; the service calls a null parameter "an object", but a nested one "null"."""
    if value is None:
        return "null" if {".", "["} & set(path) else "an object"
    nouns = {
        bool: "a boolean",
        int: "an integer",
        float: "a decimal number",
        str: "a string",
        list: "an array",
    }
    return nouns.get(type(value), "an object")
