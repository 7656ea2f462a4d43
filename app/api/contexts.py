"""What a next turn would be given, and how much that is: shown and counted, generating nothing."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Query, Request, Response

from app import ids
from app.api import openapi
from app.api.deps import CallerDep, IncludeDep, ResourcesDep
from app.api.headers import on_open_tool_calls
from app.api.identifiers import check_prefix, response_key, response_not_found
from app.api.json_bodies import as_json, read_params
from app.api.model_access import resolve
from app.api.schemas.input_tokens import COUNT, CountInputTokens
from app.api.scopes import READS
from app.api.validation import check_state
from app.domain.audit import Action
from app.domain.gates import hide
from app.domain.items import normalise
from app.domain.jobs import Mode
from app.domain.response import CHAINABLE, Draft
from app.domain.tenancy import Caller
from app.errors import InvalidRequest
from app.generation.accept import accept
from app.generation.context_preview import Preview, input_tokens, preview
from app.generation.history import Terms
from app.resources import Resources
from app.store import responses
from app.store.responses import StoredResponse

router = APIRouter()

Truncation = Annotated[
    Literal["auto", "disabled"],
    Query(description="As the next turn would say: `auto` leaves out what the model has no room for."),
]
Model = Annotated[str | None, Query(description="The next turn's model, whose context window applies.")]


@router.post("/v1/responses/input_tokens", tags=["responses"], dependencies=READS, **openapi.INPUT_TOKENS)
async def count_input_tokens(request: Request, caller: CallerDep, it: ResourcesDep) -> Response:
    """Count what a create with these parameters would give to the model. Every one may be left out.

    The number is an estimate, a quarter of the bytes of JSON, because only the upstream knows its
    tokenizer: of the history, the new input, the instructions, the tools and the schema of the text.
    It is the number that the model's context window is compared with. What is too long for that is
    counted all the same, but `truncation: "auto"` counts only what would be sent.

    Nothing is created or locked, and a conversation in which a response runs can be counted. What
    `create` refuses for the state that it finds, such as a tool call without output, this refuses too.
    """
    params = await _params(request, it)
    model = _model(params, it)
    route = None if model is None else resolve(it.registry, caller, model)
    theirs, window = (route.compacts_itself, route.context_window_tokens) if route else (True, None)
    draft = it.compaction.opened(_draft(params), caller.tenant, allows_theirs=theirs)
    terms = Terms(
        context_window_tokens=window if params.get("truncation") == "auto" else None,
        on_open_tool_calls=on_open_tool_calls(request.headers, it.settings.on_open_tool_calls),
        opened=it.compaction.opener(caller.tenant, allows_theirs=theirs),
    )
    counted = input_tokens(
        await accept(it.db, caller, draft, terms),
        lambda blobs: it.compaction.unfold(blobs, caller.tenant, allows_theirs=theirs),
    )
    return as_json({"object": "response.input_tokens", "input_tokens": counted})


@router.get(
    "/v1/responses/{response_id}/context", tags=["responses"], dependencies=READS, **openapi.RESPONSE_CONTEXT
)
async def show_response_context(
    response_id: str,
    caller: CallerDep,
    it: ResourcesDep,
    include: IncludeDep,
    model: Model = None,
    truncation: Truncation = "disabled",
) -> Response:
    """Show the items that a response with this one as `previous_response_id` would be given, before
    its own input. An extension of ours.

    The window is that of `model`, or else of the response's own model; it is null where the server's
    configuration says none, and where no upstream serves the name that the own model has resolved to.
    `input_tokens` is an estimate. A context that is too long is shown whole, with
    `exceeds_context_window`, unless `truncation=auto` can shorten it, which `is_truncated` tells.

    A response that is there but cannot be continued is refused with 400 and told why: it failed, was
    cancelled, has not ended, or was not stored.
    """
    stored = await _continuable(response_id, caller, it)
    window = _own_window(stored, it) if model is None else _window(model, caller, it)
    params = {"previous_response_id": response_id, "truncation": truncation}
    seen = await preview(it.db, caller, params, window)
    it.readings.note(caller, Action.RESPONSE_READ, stored.id, {"part": "context"})
    return _shown(seen, window, include)


@router.get(
    "/v1/conversations/{conversation_id}/context",
    tags=["conversations"],
    dependencies=READS,
    **openapi.CONVERSATION_CONTEXT,
)
async def show_conversation_context(
    conversation_id: str,
    caller: CallerDep,
    it: ResourcesDep,
    include: IncludeDep,
    model: Model = None,
    truncation: Truncation = "disabled",
) -> Response:
    """Show the items that a response made in this conversation would be given, before its own input.
    An extension of ours.

    Without `model` there is no window, and all is shown. `input_tokens` is an estimate. A context that
    is too long is shown whole, with `exceeds_context_window`, unless `truncation=auto` can shorten it,
    which `is_truncated` tells. A response that runs in the conversation meanwhile does not hinder this,
    and what it will append is not shown.
    """
    check_prefix("conversation_id", conversation_id, "conv")
    window = _window(model, caller, it)
    params = {"conversation": conversation_id, "truncation": truncation}
    seen = await preview(it.db, caller, params, window)
    key = ids.parse_conversation_id(conversation_id)
    it.readings.note(caller, Action.CONVERSATION_READ, key, {"part": "context"})
    return _shown(seen, window, include)


async def _params(request: Request, it: Resources) -> dict[str, Any]:
    params = await read_params(request, it, COUNT, CountInputTokens, items="input")
    check_state(params)
    return params


def _draft(params: Mapping[str, Any]) -> Draft:
    """A create that is never run; since it is not stored either, it takes no lock."""
    new_id, sent = ids.new_uuid(), {key: value for key, value in params.items() if key != "input"}
    return Draft(
        id=new_id,
        model=params.get("model") or "",
        params={**sent, "store": False},
        input=normalise(params.get("input") or [], new_id),
        echo={},
    )


def _model(params: Mapping[str, Any], it: Resources) -> str | None:
    return it.settings.default_model if params.get("model") is None else params["model"]


def _window(model: str | None, caller: Caller, it: Resources) -> int | None:
    """The context window of a model that somebody named.

    Raises:
        InvalidRequest: nobody serves it, or not to this tenant.
    """
    return None if model is None else resolve(it.registry, caller, model).context_window_tokens


def _own_window(stored: StoredResponse, it: Resources) -> int | None:
    """The context window of the model that answered; an upstream may call it what it is not asked for by."""
    try:
        return it.registry.resolve(orjson.loads(stored.body)["model"]).context_window_tokens
    except InvalidRequest:
        return None


async def _continuable(response_id: str, caller: Caller, it: Resources) -> StoredResponse:
    """The response, if a next turn can be chained on it.

    Raises:
        NotFound: there is none, also if another tenant has it (law L7).
        InvalidRequest: it cannot be continued, or this is no id of a response at all.
    """
    async with it.db.read(caller) as tx:
        stored = await responses.get(tx, response_key(response_id))
    if stored is None:
        raise response_not_found(response_id)
    if Mode.EPHEMERAL in stored.mode:
        raise _not_continuable(response_id, "it is not stored, only kept for polling")
    if stored.status not in CHAINABLE:
        raise _not_continuable(response_id, f"its status is '{stored.status.wire}'")
    return stored


def _not_continuable(response_id: str, reason: str) -> InvalidRequest:
    """The code that a create with this parent would get, whose words would hide the reason."""
    return InvalidRequest(
        f"Response with id '{response_id}' cannot be continued: {reason}.",
        code="previous_response_not_found",
        param="response_id",
    )


def _shown(seen: Preview, window_tokens: int | None, include: frozenset[str]) -> Response:
    return as_json(
        {
            "object": "context",
            "data": hide(seen.items, include),
            "input_tokens": seen.tokens,
            "input_tokens_are_estimated": True,
            "context_window_tokens": window_tokens,
            "is_truncated": seen.is_truncated,
            "exceeds_context_window": seen.exceeds_window,
            "open_tool_calls": [{"call_id": name, "type": kind} for name, kind in seen.open_calls.items()],
        }
    )
