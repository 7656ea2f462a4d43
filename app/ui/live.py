"""A running response as the page follows it: the journal's events, reduced to what is shown of them.

Each message to the browser is numbered by the event that it comes from, so that a browser which was cut off
says where it was (`Last-Event-ID`), and is told the rest and nothing twice.
"""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Header, Query, Response

from app.api import sse
from app.api.deps import CallerDep, ResourcesDep
from app.api.identifiers import response_key, response_not_found
from app.api.limits import open_stream
from app.api.scopes import READS
from app.domain.audit import Action
from app.domain.jobs import Mode
from app.errors import InvalidRequest
from app.generation.follow import MAX_SEQUENCE_NUMBER, follow
from app.store import responses
from app.ui.entries import heading
from app.ui.pieces import field

router = APIRouter()

END = b"event: end\ndata: {}\n\n"
RETRY = b"retry: 1000\n\n"
"""How long a browser that was cut off waits before it asks again, in milliseconds."""

_TEXTS = {
    b"response.output_text.delta": "prose",
    b"response.refusal.delta": "prose",
    b"response.reasoning_text.delta": "thought",
    b"response.reasoning_summary_text.delta": "thought",
    b"response.function_call_arguments.delta": "code",
    b"response.custom_tool_call_input.delta": "code",
    b"response.mcp_call_arguments.delta": "code",
    b"response.code_interpreter_call_code.delta": "code",
}
_STATES = {b"response.queued": "queued", b"response.in_progress": "in_progress"}
_ITEM = b"response.output_item.added"


@router.get("/responses/{response_id}/events", dependencies=READS)
async def follow_response(
    response_id: str,
    caller: CallerDep,
    it: ResourcesDep,
    starting_after: Annotated[int, Query(ge=-1)] = -1,
    last_event_id: Annotated[str, Header()] = "",
) -> Response:
    """What is said from here on, until the response has ended."""
    async with it.db.read(caller) as tx:
        stored = await responses.get(tx, response_key(response_id))
    if stored is None:
        raise response_not_found(response_id)
    if Mode.STREAMED not in stored.mode:
        raise InvalidRequest("This response was not created with stream=true, so it has no events.")
    open_stream(caller, it)
    it.readings.note(caller, Action.RESPONSE_READ, stored.id, {"part": "events"})
    followed = follow(
        it.db,
        caller,
        it.notifications,
        stored.id,
        after=_number(last_event_id, starting_after),
        is_padded=False,
        poll_seconds=min(it.settings.follow_poll_seconds, it.settings.keepalive_seconds),
    )
    return sse.EventStream(_told(followed), attended=it.attended)


def _number(text: str, otherwise: int) -> int:
    """What a browser says that it has seen; it says what it was told, but anybody may say anything."""
    is_one = text.isascii() and text.isdecimal() and len(text) <= 10
    return min(int(text), MAX_SEQUENCE_NUMBER) if is_one else otherwise


async def _told(followed: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    yield RETRY
    async with aclosing(followed) as batches:
        async for batch in batches:
            yield b"".join(_messages(batch)) or sse.KEEP_ALIVE
    yield END


def _messages(frames: bytes) -> Iterator[bytes]:
    """Those of the events that change what is shown, in the page's words."""
    for frame in frames.split(b"\n\n"):
        kind, _, data = frame.removeprefix(b"event: ").partition(b"\ndata: ")
        if kind in _TEXTS or kind in _STATES or kind == _ITEM:
            event: dict[str, Any] = orjson.loads(data)
            shown = orjson.dumps(_message(kind, event))
            yield b"id: %d\ndata: %b\n\n" % (event["sequence_number"], shown)


def _message(kind: bytes, event: dict[str, Any]) -> dict[str, Any]:
    if kind in _STATES:
        return {"do": "status", "status": _STATES[kind]}
    if kind == _ITEM:
        return {"do": "open", "at": event["output_index"], **heading(field(event, "item"))}
    part = event.get("content_index", event.get("summary_index", 0))
    return {
        "do": "say",
        "at": event["output_index"],
        "part": part,
        "kind": _TEXTS[kind],
        "text": event["delta"],
    }
