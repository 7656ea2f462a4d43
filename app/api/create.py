"""POST /v1/responses: from bytes to a run, and from the run to an answer. The hot path.

A WebSocket shares `begin`, and answers by itself: `app.api.socket_turns`.
"""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import orjson
from fastapi import Request, Response

from app import ids
from app.api import idempotency, sse
from app.api.arrival import AnswerHeaders, Arrival
from app.api.bodies import ClientGone, read_body
from app.api.errors import of_failed_response
from app.api.following import follow_stream
from app.api.hang_ups import tell, when_gone
from app.api.headers import conversation_wait_seconds, on_open_tool_calls
from app.api.limits import admit
from app.api.model_access import resolve
from app.api.prompting import prompted
from app.api.validation import check_not_empty, check_state, parse_create
from app.domain.context import Context
from app.domain.echo import echo
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
from app.providers.silent import Silent
from app.resources import Resources


@dataclass(frozen=True, slots=True)
class Running:
    """A generation of the foreground. Its events are in the run's listener, if it is streamed."""

    run: engine.Run
    coroutine: Coroutine[Any, Any, Composer]
    """Generates, once it is awaited or spawned: one of both at once, because it gives back what is held."""


@dataclass(frozen=True, slots=True)
class Queued:
    """A generation of the background."""

    draft: Draft
    body: bytes


@dataclass(frozen=True, slots=True)
class Repeated:
    """A create that was answered before."""

    draft: Draft
    kept: Kept


Begun = Running | Queued | Repeated


async def create(request: Request, caller: Caller, it: Resources) -> Response:
    """Answer one create request, streamed or not; nothing is stored unless a generation began."""
    body = await read_body(request, it.settings)
    params = parse_create(body, default_model=it.settings.default_model, limits=it.settings)
    match await begin(params, arrived(request, body), caller, it):
        case Repeated(draft, kept):
            return await idempotency.replay(kept, draft, caller, it)
        case Queued(draft, content) if draft.is_streamed:
            return follow_stream(draft.id, caller, it, after=-1, is_padded=True)
        case Queued(_, content):
            return Response(content, media_type="application/json")
        case Running(run, coroutine):
            if isinstance(run.listener, Feed):
                return await _stream(request, run.listener, it.spawn(coroutine), it)
            return await _json(request, coroutine, it)


async def begin(
    params: Mapping[str, Any], arrival: Arrival, caller: Caller, it: Resources, *, generates: bool = True
) -> Begun:
    """Begin what a checked body asks for, whatever brought it: everything between parsing and answering.

    Args:
        generates: False for a response that only holds its input, so that others can continue it.

    Raises:
        ServiceError: it is refused, and nothing is stored or locked.
    """
    params = await prompted(params, caller, it)
    draft, route = _draft(params, caller, it)
    if not generates:
        route = replace(route, provider=Silent(route.provider))
    terms = _terms(arrival, route, caller, it)
    await admit(arrival, draft, caller, it)
    async with idempotency.claimed(arrival, caller, draft, it) as claim:
        if isinstance(claim, Kept):
            return Repeated(draft, claim)
        accepted = replace(await accept(it.db, caller, draft, terms), claim=claim)
        async with _given_back_on_error(accepted, it):
            await rate_limits.amend(it.db, caller, it.limits, draft, accepted.draft)
            if generates:
                check_not_empty(params, has_history=accepted.has_history)
            route.refuse(accepted.draft.params, accepted.draft.input.items)
            if accepted.draft.is_background:
                return await _queue(accepted, caller, it)
    return _start(accepted, route, arrival, caller, it)


def _start(accepted: Accepted, route: Route, arrival: Arrival, caller: Caller, it: Resources) -> Running:
    keeper = NewRow(it.db, it.entries, caller, accepted, route.provider.name)
    run = _run(accepted, route, keeper, arrival, it)
    running = run_locked(run, accepted.lock, keeper, it.locks, it.db) if accepted.lock else engine.run(run)
    if accepted.claim:
        running = run_claimed(running, accepted.claim, it.claims, it.db)
    return Running(run, rate_limits.settled(running, it.db, caller, it.limits, accepted.draft))


def arrived(request: Request, body: bytes) -> Arrival:
    """What a request says beside its parameters, and by the way of which it is told."""

    def tell(headers: AnswerHeaders) -> None:
        request.state.answer_headers = headers

    return Arrival(
        headers=request.headers,
        idempotency_key=lambda: idempotency.key_of_body(request, body),
        is_abandoned=request.is_disconnected,
        tell=tell,
    )


def to_draft(params: Mapping[str, Any]) -> Draft:
    """The last place where a request's fields are looked at one by one."""
    new_id, model = ids.new_uuid(is_passing=params.get("store") is False), params["model"]
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
    return it.compaction.prepared(draft, resolve(it.registry, caller, draft.model), caller.tenant)


def _terms(arrival: Arrival, route: Route, caller: Caller, it: Resources) -> Terms:
    """How the history is treated: the operator's word, unless the request's headers say otherwise."""
    headers = arrival.headers
    return Terms(
        context_window_tokens=route.context_window_tokens,
        on_open_tool_calls=on_open_tool_calls(headers, it.settings.on_open_tool_calls),
        wait_seconds=conversation_wait_seconds(headers, it.settings.conversation_wait_seconds),
        lease_seconds=it.settings.lease_seconds,
        is_abandoned=arrival.is_abandoned,
        recall=arrival.recall,
        opened=it.compaction.opener(caller.tenant, allows_theirs=route.compacts_itself),
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


def _run(accepted: Accepted, route: Route, keeper: NewRow, arrival: Arrival, it: Resources) -> engine.Run:
    draft = accepted.draft
    feed = Feed(arrival.max_waiting_bytes) if draft.is_streamed else None
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


async def _queue(accepted: Accepted, caller: Caller, it: Resources) -> Queued:
    """Queue, commit, ring. A broker that is down costs only time: the row is the queue."""
    queued = await enqueue(it.db, it.entries, caller, accepted, seals=it.seals)
    await it.ring(ids.response_id(accepted.draft.id))
    return Queued(accepted.draft, queued.body)


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


async def _json(request: Request, running: Coroutine[Any, Any, Composer], it: Resources) -> Response:
    composer = await awaited(request, running, it, ends_with_client=_ends_with_client(it))
    return Response(composer.json, media_type="application/json")


async def awaited(
    request: Request, running: Coroutine[Any, Any, Composer], it: Resources, *, ends_with_client: bool
) -> Composer:
    """Wait for a run's end, in the request's own task.

    Raises:
        ServiceError: it failed, or was refused before it began.
        ClientGone: the client hung up, and the run ended with it.
    """
    hang_up = _HangUp(asyncio.current_task())
    with it.attended(), when_gone(request.scope, hang_up) if ends_with_client else nullcontext():
        try:
            composer = await running
        except asyncio.CancelledError:
            if hang_up.has_come:
                raise ClientGone from None
            raise
    if composer.status is Status.FAILED:
        raise of_failed_response(orjson.loads(composer.body)["error"])
    return composer


class _HangUp:
    """Cancels a run whose client is gone: the upstream is closed at once (surface notes §8.7)."""

    def __init__(self, task: asyncio.Task[Any] | None) -> None:
        self._task = task
        self.has_come = False

    def __call__(self) -> None:
        self.has_come = True
        if self._task:
            self._task.cancel()


def _ends_with_client(it: Resources) -> bool:
    """Whether a hang-up ends the run; elsewhere runs are to be finished."""
    return it.settings.foreground_on_disconnect == "cancel"


async def _stream(request: Request, feed: Feed, task: asyncio.Task[Composer], it: Resources) -> Response:
    """Begin the stream with the first events, so that a refusal can still be a plain HTTP error.

    An upstream that says nothing for a whole keep-alive interval is waited for inside the stream.
    """
    if _ends_with_client(it):
        take_back = tell(request.scope, task.cancel)
        task.add_done_callback(lambda _: take_back())
    first = await feed.take_within(it.settings.keepalive_seconds)
    if first is None:
        feed.is_streaming = True
    elif not first:
        await outcome(task)
    body = sse.frames(
        feed,
        first=first or (),
        keepalive_seconds=it.settings.keepalive_seconds,
        sends_done=it.settings.send_done,
    )
    return sse.EventStream(body)


async def outcome(task: asyncio.Task[Composer]) -> Composer:
    """What a run came to that was spawned; a client that hung up gets nothing, whatever we say.

    Raises:
        ServiceError: it was refused before it began, or what it made could not be stored.
        ClientGone: it was cancelled.
    """
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if task.cancelled():
            raise ClientGone from None
        raise
