"""POST /v1/responses: from bytes to a run, and from the run to an answer. The hot path."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import orjson
from fastapi import Request, Response
from starlette.types import Receive

from app import ids
from app.api import idempotency, sse
from app.api.bodies import ClientGone, read_body
from app.api.errors import of_failed_response
from app.api.following import follow_stream
from app.api.headers import conversation_wait_seconds, on_open_tool_calls
from app.api.limits import admit
from app.api.model_access import resolve
from app.api.validation import check_not_empty, check_state, parse_create
from app.domain.context import Context
from app.domain.echo import echo
from app.domain.events import Event
from app.domain.idempotency import Kept
from app.domain.items import normalise
from app.domain.response import Draft, Status
from app.domain.tenancy import Caller
from app.domain.tool_secrets import secrets_in
from app.errors import InvalidRequest
from app.generation import engine, history, rate_limits
from app.generation.accept import Accepted, accept
from app.generation.claimed_run import run_claimed
from app.generation.composer import Composer
from app.generation.feed import Feed
from app.generation.history import Terms
from app.generation.keeping import NewRow
from app.generation.locked_run import run_locked
from app.generation.queueing import enqueue
from app.providers.registry import Route
from app.resources import Resources


async def create(request: Request, caller: Caller, it: Resources) -> Response:
    """Answer one create request, streamed or not; nothing is stored unless a generation began."""
    body = await read_body(request, it.settings)
    params = parse_create(body, default_model=it.settings.default_model, limits=it.settings)
    draft, route = _draft(params, caller, it)
    terms = _terms(request, route, it)
    await admit(request, draft, caller, it)
    async with idempotency.claimed(request, caller, draft, body, it) as claim:
        if isinstance(claim, Kept):
            return await idempotency.replay(claim, draft, caller, it)
        accepted = replace(await accept(it.db, caller, draft, terms), claim=claim)
        async with _given_back_on_error(accepted, it):
            await rate_limits.amend(it.db, caller, it.limits, draft, accepted.draft)
            check_not_empty(params, has_history=accepted.has_history)
            route.refuse(accepted.draft.params, accepted.draft.input.items)
            if accepted.draft.is_background:
                return await _in_background(accepted, caller, it)
    return await _in_foreground(request, accepted, route, caller, it)


async def _in_foreground(
    request: Request, accepted: Accepted, route: Route, caller: Caller, it: Resources
) -> Response:
    keeper = NewRow(it.db, caller, accepted, route.provider.name)
    run = _run(accepted, route, keeper, it)
    running = run_locked(run, accepted.lock, keeper, it.locks, it.db) if accepted.lock else engine.run(run)
    if accepted.claim:
        running = run_claimed(running, accepted.claim, it.claims, it.db)
    task = it.spawn(rate_limits.settled(running, it.db, caller, it.limits, accepted.draft))
    if it.settings.foreground_on_disconnect == "cancel":
        watcher = it.spawn(_cancel_on_hang_up(request.receive, task))
        task.add_done_callback(lambda _: watcher.cancel())
    return await (_stream(run.listener, task, it) if isinstance(run.listener, Feed) else _json(task))


def to_draft(params: Mapping[str, Any]) -> Draft:
    """The last place where a request's fields are looked at one by one."""
    new_id, model = ids.new_uuid(), params["model"]
    return Draft(
        id=new_id,
        model=model,
        params={key: value for key, value in params.items() if key != "input"},
        input=normalise(params["input"], new_id),
        echo=echo(params, model=model),
    )


def _draft(params: Mapping[str, Any], caller: Caller, it: Resources) -> tuple[Draft, Route]:
    """Check in the documented order: shape came first, now what needs no look at the store."""
    check_state(params)
    _refuse_unsupported(params, it)
    draft = to_draft(params)
    return draft, resolve(it.registry, caller, draft.model)


def _terms(request: Request, route: Route, it: Resources) -> Terms:
    """How the history is treated: the operator's word, unless the request's headers say otherwise."""
    headers = request.headers
    return Terms(
        context_window_tokens=route.context_window_tokens,
        on_open_tool_calls=on_open_tool_calls(headers, it.settings.on_open_tool_calls),
        wait_seconds=conversation_wait_seconds(headers, it.settings.conversation_wait_seconds),
        lease_seconds=it.settings.lease_seconds,
        is_abandoned=request.is_disconnected,
    )


@asynccontextmanager
async def _given_back_on_error(accepted: Accepted, it: Resources) -> AsyncGenerator[None]:
    """A refusal after the conversation was locked must not leave it locked."""
    try:
        yield
    except BaseException:
        if accepted.lock:
            await history.release(it.db, accepted.lock)
        raise


def _run(accepted: Accepted, route: Route, keeper: NewRow, it: Resources) -> engine.Run:
    draft = accepted.draft
    feed = Feed() if draft.is_streamed else None
    return engine.Run(
        provider=route.provider,
        accepted=accepted,
        context=Context(
            model=route.model,
            items=accepted.items(route.provider.name),
            params=draft.params,
            is_streamed=draft.is_streamed,
        ),
        composer=Composer(draft, is_heard=feed is not None, pads=_pads(draft, it)),
        keeper=keeper,
        listener=feed,
        max_run_seconds=it.settings.max_run_seconds,
    )


async def _in_background(accepted: Accepted, caller: Caller, it: Resources) -> Response:
    """Queue, commit, ring, answer. A broker that is down costs only time: the row is the queue."""
    draft = accepted.draft
    queued = await enqueue(it.db, caller, accepted, max_queued=it.settings.max_queued, seals=it.seals)
    await it.ring(ids.response_id(draft.id))
    if not draft.is_streamed:
        return Response(queued.body, media_type="application/json")
    return follow_stream(draft.id, caller, it, after=-1, is_padded=True)


def _refuse_unsupported(params: Mapping[str, Any], it: Resources) -> None:
    if params.get("background"):
        if it.bell is None:
            raise _unsupported("background", "needs a broker, and this server has none")
        if not it.seals.can_seal and (secrets := secrets_in(params)):
            raise _unsupported(
                secrets[0].place,
                "is a secret, which a background response can keep only where the setting 'seal_key' is set",
            )


def _unsupported(param: str, reason: str) -> InvalidRequest:
    return InvalidRequest(
        f"Unsupported parameter: '{param}' {reason}.", code="unsupported_parameter", param=param
    )


def _pads(draft: Draft, it: Resources) -> bool:
    asked = (draft.params.get("stream_options") or {}).get("include_obfuscation")
    return it.settings.stream_obfuscation if asked is None else asked


async def _json(task: asyncio.Task[Composer]) -> Response:
    """Wait for the end."""
    composer = await _outcome(task)
    if composer.status is Status.FAILED:
        raise of_failed_response(orjson.loads(composer.body)["error"])
    return Response(composer.json, media_type="application/json")


async def _outcome(task: asyncio.Task[Composer]) -> Composer:
    """What a run came to; the client that hung up meanwhile gets nothing, whatever we say."""
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if task.cancelled():
            raise ClientGone from None
        raise


async def _stream(feed: Feed, task: asyncio.Task[Composer], it: Resources) -> Response:
    """Begin the stream with the first events, so that a refusal can still be a plain HTTP error.

    An upstream that says nothing for a whole keep-alive interval is waited for inside the stream.
    """
    first: list[Event] = []
    try:
        async with asyncio.timeout(it.settings.keepalive_seconds):
            first = await feed.take()
    except TimeoutError:
        feed.is_streaming = True
    if not first and not feed.is_streaming:
        await _outcome(task)
    body = sse.frames(
        feed,
        first=first,
        keepalive_seconds=it.settings.keepalive_seconds,
        sends_done=it.settings.send_done,
    )
    return sse.EventStream(body)


async def _cancel_on_hang_up(receive: Receive, task: asyncio.Task[Composer]) -> None:
    """Close the upstream as soon as the client is gone, streamed or not (surface notes §8.7)."""
    while (await receive())["type"] != "http.disconnect":
        pass
    task.cancel()
