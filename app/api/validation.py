"""Check the body of a create and refuse it in OpenAI's words; what is accepted goes on exactly as sent."""

from collections.abc import Callable, Mapping
from re import findall, fullmatch, match
from typing import Any

import orjson
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from app.api.schemas import refusals
from app.api.schemas.bounds import ID_TAIL, URL
from app.api.schemas.create import CREATE, PARAMETERS
from app.api.schemas.unions import MARK, REFUSED
from app.errors import InvalidRequest

# `orjson` reads 1024 levels but writes 254, and a request is written inside a response inside an event.
MAX_DEPTH = 200
MAX_EDIT_DISTANCE = 2
MAX_ERRORS = 1000

_INVALID_JSON = (
    "Invalid body: failed to parse JSON value. Please check the value to ensure it is valid JSON. "
    "(Common errors include trailing commas, missing closing brackets, missing quotation marks, etc.)"
)
_TOO_DEEP = f"Invalid body: nesting too deep. Please send JSON of at most {MAX_DEPTH} levels."

# Parameters of Chat Completions that have another name here.
_MOVED = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
}

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


def parse_create(body: bytes, *, default_model: str | None) -> dict[str, Any]:
    """Read and check a create's body.

    Returns the parameters as they were sent, but for `model`, which `default_model` stands in for.
    The conversation state and the emptiness of the input are checked later, as at OpenAI:
    `check_state` and `check_not_empty`.
    """
    params = parse_object(body)
    if default_model and params.get("model") is None:
        params["model"] = default_model
    _check_parameters(params)
    check_shape(CREATE, params)
    return params


def check_state(params: Mapping[str, Any]) -> None:
    """Refuse a request with two histories. The odd message is the live service's."""
    if params.get("conversation") is not None and params.get("previous_response_id") is not None:
        raise InvalidRequest(
            "Mutually exclusive parameters: ''. "
            "Ensure you are only providing one of: 'pre..._id' or 'conversation'.",
            code="mutually_exclusive_parameters",
        )


def check_not_empty(params: Mapping[str, Any]) -> None:
    """Refuse a request that gives the model nothing at all to answer."""
    state = ("previous_response_id", "prompt", "conversation")
    if not params["input"] and all(params.get(name) is None for name in state):
        raise InvalidRequest(
            "One of \"input\" or \"previous_response_id\" or 'prompt' or 'conversation' must be provided.",
            code="missing_required_parameter",
        )


def create_schema() -> dict[str, Any]:
    """Describe a create's body for OpenAPI; its definitions, for `components.schemas`, are under `$defs`."""
    schema = CREATE.json_schema(ref_template="#/components/schemas/{model}")
    message = {"role": "user", "content": [{"type": "input_text", "text": "What is the weather in Oslo?"}]}
    weather = {
        "type": "function",
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    }
    schema["examples"] = [
        {"model": "offline", "input": "Say hello."},
        {"model": "offline", "input": [message], "tools": [weather], "stream": True},
    ]
    return schema


def parse_object(body: bytes) -> dict[str, Any]:
    """Read a body that must be one JSON object of bounded depth."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        message = _TOO_DEEP if error.msg.startswith("depth limit") else _INVALID_JSON
        raise InvalidRequest(message, code="invalid_json") from None
    # Counting brackets costs next to nothing and clears all but the rarest bodies.
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _is_deeper(value, MAX_DEPTH):
        raise InvalidRequest(_TOO_DEEP, code="invalid_json")
    if not isinstance(value, dict):
        raise refusals.wrong_body(value)
    return value


def check_shape(adapter: TypeAdapter[Any], params: Mapping[str, Any]) -> None:
    """Raise the first error, in the order of the fields, of what an adapter finds wrong."""
    try:
        adapter.validate_python(params)
    except ValidationError as error:
        # Listing errors takes microseconds for each, and a hostile body can hold millions.
        if error.error_count() > MAX_ERRORS:
            raise InvalidRequest("Invalid body: too many errors to tell one.", code="invalid_value") from None
        raise _refusal(error.errors(include_url=False)[0]) from None


def _check_parameters(params: Mapping[str, Any]) -> None:
    """Check what comes before any parameter's shape: which ones are there."""
    if "model" not in params:
        raise refusals.missing("model")
    if not isinstance(params["model"], str):
        raise refusals.wrong_type("model", "a string", params["model"])
    # Before the input's presence, because a client that sends `messages` sends no `input`.
    for name in params:
        if name in _MOVED:
            raise refusals.moved(name, _MOVED[name])
    if "input" not in params:
        raise refusals.missing("input")
    for name in params:
        if name not in PARAMETERS:
            raise refusals.unknown(refusals.clip(name), _near(name, PARAMETERS - params.keys()))


def _near(name: str, candidates: frozenset[str]) -> list[str]:
    """Find the parameters a client may have meant, nearest first."""
    distances = {other: _edit_distance(name, other) for other in candidates}
    return sorted(
        (other for other, distance in distances.items() if distance <= MAX_EDIT_DISTANCE),
        key=lambda other: (distances[other], other),
    )


def _edit_distance(left: str, right: str) -> int:
    """Count the single-character edits between two names (Levenshtein), or the least that it can be."""
    if abs(len(left) - len(right)) > MAX_EDIT_DISTANCE:
        return MAX_EDIT_DISTANCE + 1
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


def _is_deeper(value: Any, limit: int) -> bool:
    """Tell whether containers are nested more than `limit` deep, without recursion."""
    level = [value]
    for _ in range(limit):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


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
