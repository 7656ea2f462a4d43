"""Which dialect a request wants to read, and answers in it. OpenAI's own, the stored one, costs nothing.

Whatever made an answer knows of none of this: the answer is rewritten on its way out.
"""

from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import Response
from starlette.requests import HTTPConnection

from app.api import sse
from app.domain.dialects import Dialect, parse, shown, shown_error
from app.domain.events import Event
from app.domain.facts import Price, price_of
from app.domain.tenancy import Caller
from app.errors import InvalidRequest
from app.resources import Resources

HEADER = "Holdfast-Dialect"

_WITH_RESPONSE = tuple(
    f"response.{name}" for name in ("created", "queued", "in_progress", "completed", "incomplete", "failed")
)
_HEADS = tuple(f"event: {name}\n".encode() for name in _WITH_RESPONSE)
_DATA = b"data: "


def asked(request: HTTPConnection) -> Dialect:
    """What the request's header says, else its key, else the settings.

    Raises:
        InvalidRequest: the header names no dialect.
    """
    named = request.headers.get(HEADER)
    if named is None:
        return _default(request)
    if (dialect := parse(named)) is None:
        raise InvalidRequest(
            f"Invalid header '{HEADER}': '{named}'. Supported values are: 'openai' and 'openrouter'.",
            code="invalid_value",
            param=HEADER,
        )
    return dialect


def answer(response: Response, dialect: Dialect, it: Resources) -> Response:
    """The same answer in this dialect: a response, a list of them, an error, or a stream."""
    if dialect is Dialect.OPENAI:
        return response
    prices = it.ledger.prices
    if isinstance(response, sse.EventStream):
        response.rewrite(lambda frames: _frames(frames, prices))
        return response
    return _with_body(response, prices)


def event(made: Event, dialect: Dialect, it: Resources) -> Event:
    """The same event in this dialect, where a WebSocket says it by itself."""
    if dialect is Dialect.OPENAI or made.type not in _WITH_RESPONSE:
        return made
    return made._replace(data=_data(made.data, it.ledger.prices))


def error(request: HTTPConnection, refusal: Response) -> Response:
    """A refusal in the dialect of whoever is refused. A header that names none is the reason by itself."""
    try:
        dialect = asked(request)
    except InvalidRequest:
        dialect = _default(request)
    return refusal if dialect is Dialect.OPENAI else _with_body(refusal, {})


def _default(request: HTTPConnection) -> Dialect:
    """Who is refused for want of a key has none."""
    caller: Caller | None = getattr(request.state, "caller", None)
    if caller and caller.dialect:
        return caller.dialect
    return Dialect(request.app.state.resources.settings.dialect)


def _with_body(response: Response, prices: Mapping[str, Price]) -> Response:
    body = orjson.dumps(_translated(orjson.loads(response.body), response.status_code, prices))
    response.body = body
    response.headers["content-length"] = str(len(body))
    return response


def _translated(said: dict[str, Any], status: int, prices: Mapping[str, Price]) -> dict[str, Any]:
    if status >= 400:
        return {**said, "error": shown_error(said["error"], status)}
    if said.get("object") == "list":
        return {**said, "data": [_shown(each, prices) for each in said["data"]]}
    return _shown(said, prices)


def _shown(said: dict[str, Any], prices: Mapping[str, Price]) -> dict[str, Any]:
    if said.get("object") != "response" or "status" not in said:
        return said
    return shown(said, price_of(said["model"], prices))


def _frames(frames: bytes, prices: Mapping[str, Price]) -> bytes:
    """Whole frames, of which those are rewritten that carry a response."""
    if not any(head in frames for head in _HEADS):
        return frames
    return b"\n\n".join(_frame(frame, prices) for frame in frames.split(b"\n\n"))


def _frame(frame: bytes, prices: Mapping[str, Price]) -> bytes:
    if not frame.startswith(_HEADS):
        return frame
    head, _, data = frame.partition(_DATA)
    return head + _DATA + _data(data, prices)


def _data(data: bytes, prices: Mapping[str, Price]) -> bytes:
    told = orjson.loads(data)
    told["response"] = _shown(told["response"], prices)
    return orjson.dumps(told)
