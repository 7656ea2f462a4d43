"""Check the bodies of requests and refuse them in OpenAI's words; what is accepted goes on as sent."""

from collections.abc import Mapping
from typing import Any, Protocol

import orjson
from pydantic import TypeAdapter, ValidationError

from app.api.limits import ItemLimits, check_items
from app.api.schemas import refusals
from app.api.schemas.create import CREATE, PARAMETERS
from app.api.schemas.wording import first_refusal
from app.errors import InvalidRequest

# `orjson` reads 1024 levels but writes 254, and a request is written inside a response inside an event.
MAX_DEPTH = 200
MAX_EDIT_DISTANCE = 2

_INVALID_JSON = (
    "Invalid body: failed to parse JSON value. Please check the value to ensure it is valid JSON. "
    "(Common errors include trailing commas, missing closing brackets, missing quotation marks, etc.)"
)
_TOO_DEEP = f"Invalid body: nesting too deep. Please send JSON of at most {MAX_DEPTH} levels."

MOST_TOKENS = 2**31 - 1
# What a gateway of looser bounds lets be any number from 0 on, and OpenAI's own bounds.
_LOOSE = {"max_output_tokens": (16, MOST_TOKENS), "max_tool_calls": (1, MOST_TOKENS), "top_logprobs": (0, 20)}

_HISTORIES = frozenset({"previous_response_id", "conversation", "conversation.id"})

# Parameters of Chat Completions that have another name here.
_MOVED = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
}


class CreateLimits(ItemLimits, Protocol):
    """What the settings say of a create's body."""

    @property
    def loose_bounds(self) -> bool: ...


def parse_create(
    body: bytes, *, default_model: str | None, limits: CreateLimits | None = None
) -> dict[str, Any]:
    """Read and check a create's body.

    Returns the parameters as they were sent, but for `model`, which `default_model` stands in for. With a
    `prompt` it may be missing: `app.api.prompting` sees to it.
    The conversation state and the emptiness of the input are checked later, as at OpenAI:
    `check_state` and `check_not_empty`.
    """
    return check_create(parse_object(body), body, default_model=default_model, limits=limits)


def check_create(
    params: dict[str, Any], body: bytes, *, default_model: str | None, limits: CreateLimits | None = None
) -> dict[str, Any]:
    """As `parse_create`, where the body has been parsed already."""
    _stand_in_for_model(params, default_model)
    _check_parameters(params)
    if limits:
        check_items("input", params["input"], body, limits)
    # A prompt may name the model: that is looked at when it has been found.
    checked = params if "model" in params else {**params, "model": ""}
    check_shape(CREATE, _tightened(checked) if limits and limits.loose_bounds else checked)
    return params


def check_state(params: Mapping[str, Any]) -> None:
    """Refuse a request with two histories. The odd message is the live service's."""
    if params.get("conversation") is not None and params.get("previous_response_id") is not None:
        raise InvalidRequest(
            "Mutually exclusive parameters: ''. "
            "Ensure you are only providing one of: 'pre..._id' or 'conversation'.",
            code="mutually_exclusive_parameters",
        )


def check_not_empty(params: Mapping[str, Any], *, has_history: bool) -> None:
    """Refuse a request that gives the model nothing at all to answer: an empty conversation is nothing."""
    if not params["input"] and not has_history and params.get("prompt") is None:
        raise InvalidRequest(
            "One of \"input\" or \"previous_response_id\" or 'prompt' or 'conversation' must be provided.",
            code="missing_required_parameter",
        )


def create_schema() -> dict[str, Any]:
    """Describe a create's body for OpenAPI; its definitions, for `components.schemas`, are under `$defs`."""
    schema = schema_of(CREATE)
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


def schema_of(adapter: TypeAdapter[Any]) -> dict[str, Any]:
    """Describe a body for OpenAPI; its definitions, for `components.schemas`, are under `$defs`."""
    return adapter.json_schema(ref_template="#/components/schemas/{model}")


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
        refusal = first_refusal(error)
        if refusal.param in _HISTORIES and refusal.code != "invalid_type":
            # What an id looks like matters less than that there are two (behaviour 7).
            check_state(params)
        raise refusal from None


def _stand_in_for_model(params: dict[str, Any], default_model: str | None) -> None:
    """Put the default where a request names no model, but leave the word to its prompt if it has one."""
    if params.get("model") is not None:
        return
    if params.get("prompt") is not None:
        params.pop("model", None)
    elif default_model:
        params["model"] = default_model


def _tightened(params: dict[str, Any]) -> dict[str, Any]:
    """The parameters as if what looser bounds allow were the nearest that OpenAI's do.

    Raises:
        InvalidRequest: a number is below every bound.
    """
    given = {name: params[name] for name in _LOOSE if type(params.get(name)) is int}
    for name, value in given.items():
        if value < 0:
            raise refusals.out_of_range(name, value, 0, is_minimum=True)
    return {
        **params,
        **{name: max(_LOOSE[name][0], min(value, _LOOSE[name][1])) for name, value in given.items()},
    }


def _check_parameters(params: Mapping[str, Any]) -> None:
    """Check what comes before any parameter's shape: which ones are there."""
    if "model" not in params and params.get("prompt") is None:
        raise refusals.missing("model")
    if not isinstance(params.get("model", ""), str):
        raise refusals.wrong_type("model", "a string", params["model"])
    # Before the input's presence, because a client that sends `messages` sends no `input`.
    for name in params:
        if name in _MOVED:
            raise refusals.moved(name, _MOVED[name])
    if "input" not in params:
        raise refusals.missing("input")
    check_names(params, PARAMETERS)


def check_names(params: Mapping[str, Any], known: frozenset[str]) -> None:
    """Refuse what is no parameter, and say which one may have been meant."""
    for name in params:
        if name not in known:
            raise refusals.unknown(refusals.clip(name), _near(name, known - params.keys()))


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
