"""What is said over a WebSocket: text frames, each with one JSON object (surface notes §10)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

from app.api.headers import is_idempotency_key
from app.api.schemas import refusals
from app.api.validation import check_names, parse_object
from app.domain.events import Event
from app.domain.idempotency import IdempotencyKey, fingerprint
from app.errors import InvalidRequest, ServiceError

CREATE, STEER = "response.create", "response.steer"

_LANE = re.compile(r"[A-Za-z0-9_.-]{1,256}")
_UNUSED = ("stream", "stream_options", "background")
_STEER_KEYS = frozenset({"type", "previous_response_id", "input"})


@dataclass(frozen=True, slots=True)
class ClientFrame:
    """A frame that names what it wants. What it wants is looked at when its lane has come to it."""

    kind: str
    lane: str | None
    """`stream_id`; None is the default lane."""
    parent: str | None
    """The response that it wants to continue: whatever is wrong with the rest, that is what fails."""
    text: bytes
    params: dict[str, Any] | None
    """The text parsed; None where it is to be parsed again."""

    @property
    def set_aside(self) -> "ClientFrame":
        """The same as text alone. Parsed, it may take twenty times as much, and many may wait."""
        return replace(self, params=None)


@dataclass(frozen=True, slots=True)
class Wish:
    """A `response.create`, parted into the body that HTTP would have and what HTTP has elsewhere."""

    params: dict[str, Any]
    generates: bool
    idempotency_key: IdempotencyKey | None


def read(text: str | None) -> ClientFrame:
    """Read as much of a frame as says where it belongs.

    Raises:
        InvalidRequest: it is no JSON object in text, of no known type, or for no possible lane.
    """
    if text is None:
        raise InvalidRequest("Invalid frame: expected text with one JSON object.", code="invalid_json")
    content = text.encode()
    value = parse_object(content)
    if "type" not in value:
        raise refusals.missing("type")
    match value["type"]:
        case "response.create":
            return ClientFrame(CREATE, _lane(value), _parent(value), content, value)
        case "response.steer":
            return ClientFrame(STEER, None, None, content, value)
        case kind:
            raise _unknown_type(kind)


def wish(frame: ClientFrame) -> Wish:
    """What a `response.create` asks for. A turn is always streamed and in the foreground, so what would
    say otherwise is not looked at (surface notes §10.2).

    Raises:
        InvalidRequest: `generate` or `idempotency_key` is malformed.
    """
    params = _params(frame)
    for name in ("type", "stream_id", *_UNUSED):
        params.pop(name, None)
    generate, key = params.pop("generate", None), params.pop("idempotency_key", None)
    if generate is not None and not isinstance(generate, bool):
        raise refusals.wrong_type("generate", "a boolean", generate)
    generates = generate is not False and not _prewarms(params)
    if not generates:
        # It holds what is given: where that is nothing, then nothing.
        params.setdefault("input", [])
    params["stream"] = True
    return Wish(params, generates, None if key is None else _idempotency_key(key, params, generates))


def _idempotency_key(text: Any, params: Mapping[str, Any], generates: bool) -> IdempotencyKey:
    """The key as the header of the same request over HTTP would have it, which is the same request."""
    if not isinstance(text, str):
        raise refusals.wrong_type("idempotency_key", "a string", text)
    if not is_idempotency_key(text):
        raise InvalidRequest(
            "Invalid 'idempotency_key'. Expected 1 to 255 visible ASCII characters.",
            code="invalid_value",
            param="idempotency_key",
        )
    body = params if generates else {**params, "generate": False}
    return IdempotencyKey(text, fingerprint("POST", "/v1/responses?", body))


def event_frame(event: Event, lane: str | None) -> str:
    """An event as SSE would have it in `data:`; a named lane is said in it."""
    return _in_lane(event.data, lane).decode()


def error_frame(
    error: ServiceError,
    lane: str | None = None,
    *,
    sequence_number: int | None = None,
) -> str:
    """An error with an integer `status` and a string `code`, never null (behaviour 141), in any dialect."""
    told = error.envelope()["error"]
    frame: dict[str, Any] = {"type": "error", "status": error.status}
    if sequence_number is not None:
        frame["sequence_number"] = sequence_number
    if lane is not None:
        frame["stream_id"] = lane
    frame["error"] = {
        "type": told["type"],
        "code": told["code"] or told["type"],
        "message": told["message"],
        "param": told["param"],
    }
    return orjson.dumps(frame).decode()


def steer_failed_frame(frame: ClientFrame) -> str:
    """The answer to every `response.steer`: this server cannot.

    Raises:
        InvalidRequest: the frame is malformed.
    """
    value = _params(frame)
    for name in ("previous_response_id", "input"):
        if name not in value:
            raise refusals.missing(name)
    check_names(value, _STEER_KEYS)
    if not isinstance(value["previous_response_id"], str):
        raise refusals.wrong_type("previous_response_id", "a string", value["previous_response_id"])
    answer: Mapping[str, Any] = {
        "type": "response.steer.failed",
        "sequence_number": 0,
        "steer": {"previous_response_id": value["previous_response_id"], "input": value["input"]},
        "error": {
            "type": "invalid_request_error",
            "code": "steering_not_supported",
            "message": "Steering is not supported. Send the input in a 'response.create' instead.",
        },
    }
    return orjson.dumps(answer).decode()


def _params(frame: ClientFrame) -> dict[str, Any]:
    """The caller's to change."""
    return orjson.loads(frame.text) if frame.params is None else {**frame.params}


def _parent(value: Mapping[str, Any]) -> str | None:
    parent = value.get("previous_response_id")
    return parent if isinstance(parent, str) else None


def _lane(value: Mapping[str, Any]) -> str | None:
    if "stream_id" not in value:
        return None
    lane = value["stream_id"]
    if not isinstance(lane, str) or not _LANE.fullmatch(lane):
        raise InvalidRequest(
            "The 'stream_id' field must be a non-empty string with at most 256 characters and may only "
            "contain letters, numbers, underscores, hyphens, and periods.",
            code="invalid_stream_id",
            param="stream_id",
        )
    return lane


def _unknown_type(kind: Any) -> InvalidRequest:
    if not isinstance(kind, str):
        return refusals.wrong_type("type", "a string", kind)
    return InvalidRequest(
        f"Invalid value: '{refusals.clip(kind)}'. Supported values are: '{CREATE}' and '{STEER}'.",
        code="invalid_value",
        param="type",
    )


def _prewarms(params: dict[str, Any]) -> bool:
    """Whether only the cache is wanted. The order is carried out here, so it goes no further."""
    options = params.get("prompt_cache_options")
    if not isinstance(options, dict) or options.get("prewarm") is not True:
        return False
    params["prompt_cache_options"] = {name: each for name, each in options.items() if name != "prewarm"}
    return True


def _in_lane(data: bytes, lane: str | None) -> bytes:
    # A lane is letters and the like: nothing in it needs an escape.
    return data if lane is None else data[:-1] + b',"stream_id":"%b"}' % lane.encode()
