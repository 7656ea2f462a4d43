"""The `Idempotency-Key` header: what was answered once is answered again, whoever asks, in any process."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson
from fastapi import Request, Response

from app import ids
from app.api import sse
from app.api.arrival import Arrival
from app.api.errors import of_failed_response, render
from app.api.following import follow_stream
from app.api.headers import IDEMPOTENCY_KEY, idempotency_key
from app.api.identifiers import response_not_found
from app.domain.events import Event
from app.domain.idempotency import IdempotencyKey, Kept, KeyClaim, fingerprint
from app.domain.jobs import Mode
from app.domain.response import Draft, Status
from app.domain.tenancy import Caller
from app.errors import InvalidRequest
from app.generation import idempotency as generation
from app.generation.rebuild import retell
from app.resources import Resources
from app.store import idempotency as store
from app.store import responses
from app.store.db import Tx
from app.store.responses import StoredResponse

REPLAYED = "Idempotent-Replayed"
"""The header of an answer that was given before."""


@asynccontextmanager
async def claimed(
    arrival: Arrival, caller: Caller, draft: Draft, it: Resources
) -> AsyncGenerator[KeyClaim | Kept | None]:
    """The claim of the request's key while its response is prepared; what it stands for, if another request
    had it; None without a key. A claim is given up if the block fails.

    Raises:
        InvalidRequest: the key is malformed, stands for another request, or nothing could be stored for it.
    """
    key = arrival.idempotency_key()
    if key is None:
        yield None
        return
    _check_stored(draft)
    claim = await generation.claim(it.db, caller, key, draft.id, _rules(arrival, it))
    if isinstance(claim, Kept):
        yield claim
        return
    async with generation.held(claim, it.claims, it.db):
        yield claim


async def replay(kept: Kept, draft: Draft, caller: Caller, it: Resources) -> Response:
    """Answer a create as it was answered before; a background response as it is now.

    Raises:
        NotFound: the response has been deleted, or it was kept for a while only.
    """
    stored = await _read(kept, caller, it)
    if Mode.BACKGROUND in stored.mode and draft.is_streamed:
        response = follow_stream(stored.id, caller, it, after=-1, is_padded=True)
    elif Mode.BACKGROUND in stored.mode:
        response = Response(stored.json(), media_type="application/json")
    elif draft.is_streamed:
        response = sse.EventStream(sse.said(retell(stored), sends_done=it.settings.send_done))
    elif stored.status is Status.FAILED:
        response = render(of_failed_response(orjson.loads(stored.body)["error"]))
    else:
        response = Response(stored.json(), media_type="application/json")
    return _replayed(response)


async def retold(kept: Kept, caller: Caller, it: Resources) -> Sequence[Event]:
    """The events of a stream that was answered before, where its client wants them without SSE.

    Raises:
        NotFound: the response has been deleted.
    """
    return retell(await _read(kept, caller, it))


async def once(
    request: Request,
    params: Mapping[str, Any],
    caller: Caller,
    it: Resources,
    write: Callable[[Tx], Awaitable[bytes]],
) -> Response:
    """Write in one transaction and answer what `write` gives; for a key that did so before, answer the same.

    The key is claimed in that transaction, so a duplicate waits for its end, and a crash undoes both.

    Raises:
        InvalidRequest: the key is malformed, or stands for another request.
    """
    key = _key_of(request, params)
    async with it.db.begin(caller) as tx:
        if key and (kept := await _claim_here(tx, key, it)):
            generation.check_same(kept, key)
            return _replayed(Response(kept.answer, media_type="application/json"))
        content = await write(tx)
        if key:
            await store.answer(tx, key.text, content)
    return Response(content, media_type="application/json")


async def _claim_here(tx: Tx, key: IdempotencyKey, it: Resources) -> Kept | None:
    retention_seconds = it.settings.idempotency_retention_seconds
    return await store.claim(tx, key, None, lease_seconds=None, retention_seconds=retention_seconds)


def key_of_body(request: Request, body: bytes) -> IdempotencyKey | None:
    """What tells a retry of this request, if it sent such a key.

    Raises:
        InvalidRequest: the key is malformed.
    """
    return _key_of(request, orjson.loads(body)) if IDEMPOTENCY_KEY in request.headers else None


def _key_of(request: Request, body: Any) -> IdempotencyKey | None:
    text = idempotency_key(request.headers)
    if text is None:
        return None
    target = f"{request.url.path}?{request.url.query}"
    return IdempotencyKey(text, fingerprint(request.method, target, body))


def _check_stored(draft: Draft) -> None:
    if not draft.is_stored and not draft.is_background:
        raise InvalidRequest(
            f"Unsupported parameter: '{IDEMPOTENCY_KEY}' cannot be used with 'store' set to false, because "
            "the same response could not be answered again. Use 'store': true, or 'background': true.",
            code="unsupported_parameter",
            param=IDEMPOTENCY_KEY,
        )


def _rules(arrival: Arrival, it: Resources) -> generation.Rules:
    return generation.Rules(
        lease_seconds=it.settings.lease_seconds,
        retention_seconds=it.settings.idempotency_retention_seconds,
        wait_seconds=it.settings.max_run_seconds,
        is_abandoned=arrival.is_abandoned,
    )


async def _read(kept: Kept, caller: Caller, it: Resources) -> StoredResponse:
    if kept.response_id is None:
        raise ValueError("a key of a create names its response")
    async with it.db.read(caller) as tx:
        stored = await responses.get(tx, kept.response_id)
    if stored is None:
        raise response_not_found(ids.response_id(kept.response_id))
    return stored


def _replayed(response: Response) -> Response:
    response.headers[REPLAYED] = "true"
    return response
