"""Errors of query parameters, in the words that errors of bodies have (surface notes §2.3)."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from app.api.schemas.refusals import listing
from app.errors import InvalidRequest


def query_error(errors: Sequence[Mapping[str, Any]]) -> InvalidRequest:
    """The first of FastAPI's findings about a query, as OpenAI would report it."""
    error = errors[0]
    name = str(error["loc"][-1])
    describe = _WORDS.get(error["type"], _invalid)
    code, message = describe(name, error.get("input"), error.get("ctx") or {})
    return InvalidRequest(message, code=code, param=name)


def _too_small(name: str, value: Any, ctx: Mapping[str, Any]) -> tuple[str, str]:
    return "integer_below_min_value", (
        f"Invalid '{name}': integer below minimum value. Expected a value >= {ctx['ge']}, "
        f"but got {value} instead."
    )


def _too_big(name: str, value: Any, ctx: Mapping[str, Any]) -> tuple[str, str]:
    return "integer_above_max_value", (
        f"Invalid '{name}': integer above maximum value. Expected a value <= {ctx['le']}, "
        f"but got {value} instead."
    )


def _choice(_: str, value: Any, ctx: Mapping[str, Any]) -> tuple[str, str]:
    supported = listing(re.findall("'([^']*)'", ctx["expected"]))
    return "invalid_value", f"Invalid value: '{value}'. Supported values are: {supported}."


def _integer(name: str, *_: Any) -> tuple[str, str]:
    return "invalid_type", f"Invalid type for '{name}': expected an integer, but got a string instead."


def _boolean(name: str, *_: Any) -> tuple[str, str]:
    return "invalid_type", f"Invalid type for '{name}': expected a boolean, but got a string instead."


def _invalid(name: str, value: Any, _: Mapping[str, Any]) -> tuple[str, str]:
    return "invalid_value", f"Invalid '{name}': '{value}'."


_WORDS: Mapping[str, Callable[[str, Any, Mapping[str, Any]], tuple[str, str]]] = {
    "greater_than_equal": _too_small,
    "less_than_equal": _too_big,
    "literal_error": _choice,
    "int_parsing": _integer,
    "bool_parsing": _boolean,
}
