"""Request headers: choices of one request that have no place in OpenAI's body."""

import re

from starlette.datastructures import Headers

from app.errors import InvalidRequest
from app.generation.history import OnOpenToolCalls

CONVERSATION_WAIT = "Holdfast-Conversation-Wait"
ON_OPEN_TOOL_CALLS = "Holdfast-On-Open-Tool-Calls"
IDEMPOTENCY_KEY = "Idempotency-Key"

MAX_WAIT_SECONDS = 600.0
"""The SDKs' own patience."""

_VISIBLE = re.compile(r"[!-~]{1,255}")


def idempotency_key(headers: Headers) -> str | None:
    """What tells a retry from a new request.

    Raises:
        InvalidRequest: the header is no visible ASCII, too long, empty, or there twice.
    """
    values = headers.getlist(IDEMPOTENCY_KEY)
    if not values:
        return None
    if len(values) > 1 or not is_idempotency_key(values[0]):
        raise InvalidRequest(
            f"Invalid header '{IDEMPOTENCY_KEY}'. Expected one value of 1 to 255 visible ASCII characters.",
            code="invalid_value",
            param=IDEMPOTENCY_KEY,
        )
    return values[0]


def is_idempotency_key(text: str) -> bool:
    return _VISIBLE.fullmatch(text) is not None


def conversation_wait_seconds(headers: Headers, default: float) -> float:
    """How long to wait for a conversation that is busy.

    Raises:
        InvalidRequest: the header is no number of seconds from 0 to 600.
    """
    value = headers.get(CONVERSATION_WAIT)
    if value is None:
        return default
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1
    if not 0 <= seconds <= MAX_WAIT_SECONDS:
        raise InvalidRequest(
            f"Invalid header '{CONVERSATION_WAIT}': '{value}'. "
            f"Expected a number of seconds from 0 to {MAX_WAIT_SECONDS:.0f}.",
            code="invalid_value",
            param=CONVERSATION_WAIT,
        )
    return seconds


def on_open_tool_calls(headers: Headers, default: OnOpenToolCalls) -> OnOpenToolCalls:
    """What becomes of tool calls that the new input leaves without an output.

    Raises:
        InvalidRequest: the header has another value than `reject` or `interrupt`.
    """
    match headers.get(ON_OPEN_TOOL_CALLS):
        case None:
            return default
        case "reject":
            return "reject"
        case "interrupt":
            return "interrupt"
        case value:
            raise InvalidRequest(
                f"Invalid header '{ON_OPEN_TOOL_CALLS}': '{value}'. "
                "Supported values are: 'reject' and 'interrupt'.",
                code="invalid_value",
                param=ON_OPEN_TOOL_CALLS,
            )
