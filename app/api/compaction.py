"""POST /v1/responses/compact: make a context short for a client that keeps it itself."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response

from app import ids
from app.api import openapi
from app.api.bodies import read_body
from app.api.create import arrived, awaited
from app.api.deps import CallerDep, ResourcesDep
from app.api.headers import IDEMPOTENCY_KEY
from app.api.json_bodies import as_json
from app.api.limits import admit, check_items
from app.api.model_access import resolve
from app.api.schemas import refusals
from app.api.schemas.compact import COMPACT, PARAMETERS
from app.api.scopes import WRITES
from app.api.validation import check_names, check_not_empty, check_shape, parse_object
from app.domain.audit import Action
from app.domain.compaction import COMPACTION, TRIGGER
from app.domain.context import Context
from app.domain.echo import echo
from app.domain.items import normalise
from app.domain.response import Draft, complete_usage
from app.domain.tenancy import Caller
from app.errors import InvalidRequest, UpstreamError
from app.generation import engine, rate_limits
from app.generation.accept import Accepted, accept
from app.generation.composer import Composer
from app.generation.history import Terms
from app.generation.keeping import NewRow
from app.providers.registry import Route
from app.resources import Resources
from app.store import outbox

router = APIRouter()


@router.post("/v1/responses/compact", tags=["responses"], dependencies=WRITES, **openapi.COMPACT)
async def compact(request: Request, caller: CallerDep, it: ResourcesDep) -> Response:
    """Make a context short: of all that a create with these parameters would give to the model, the
    messages of the user word by word, and one `compaction` item that stands for the whole.

    Send `output` unchanged as the next `input`, without `previous_response_id`. The item is sealed: only
    servers with this one's key read it. Nothing is stored, so the `id` can be neither read nor continued.
    Tool calls without an output stay open: the next input brings their outputs.
    """
    body = await read_body(request, it.settings)
    params = _params(request, body, it)
    model = resolve(it.registry, caller, params["model"])
    draft, route = it.compaction.prepared(_draft(params), model, caller.tenant)
    await admit(arrived(request, body), draft, caller, it)
    opened = it.compaction.opener(caller.tenant, allows_theirs=route.compacts_itself)
    accepted = await accept(it.db, caller, draft, Terms(opened=opened))
    await rate_limits.amend(it.db, caller, it.limits, draft, accepted.draft)
    check_not_empty({"input": accepted.draft.input.items[:-1]}, has_history=accepted.has_history)
    route.refuse(accepted.draft.params, accepted.draft.input.items)
    context = Context(
        model=route.model,
        items=accepted.items(route.provider.name),
        params=accepted.draft.params,
        is_streamed=False,
    )
    composer = await _composed(request, accepted, context, route, caller, it)
    theirs = route.compacts_itself
    messages = it.compaction.unfold(context.items, caller.tenant, allows_theirs=theirs).messages
    answer = _answer(accepted.draft, [*messages, _item_of(composer)], composer)
    async with it.db.begin(caller) as tx:
        await outbox.note(tx, Action.RESPONSE_COMPACTED, draft.id, {"model": composer.model})
    return as_json(answer)


def _params(request: Request, body: bytes, it: Resources) -> dict[str, Any]:
    if IDEMPOTENCY_KEY in request.headers:
        raise InvalidRequest(
            f"Unsupported parameter: '{IDEMPOTENCY_KEY}' cannot be used here, because nothing is stored that "
            "could be answered again.",
            code="unsupported_parameter",
            param=IDEMPOTENCY_KEY,
        )
    params = parse_object(body)
    if it.settings.default_model and params.get("model") is None:
        params["model"] = it.settings.default_model
    if "model" not in params:
        raise refusals.missing("model")
    check_names(params, PARAMETERS)
    check_items("input", params.get("input"), body, it.settings)
    check_shape(COMPACT, params)
    return params


def _draft(params: Mapping[str, Any]) -> Draft:
    """A create that only compacts, and is not stored."""
    new_id, given = ids.new_uuid(is_passing=True), params.get("input") or []
    items: list[dict[str, Any]] = [{"role": "user", "content": given}] if isinstance(given, str) else given
    is_ordered = bool(items) and items[-1].get("type") == TRIGGER
    return Draft(
        id=new_id,
        model=params["model"],
        params={**{name: value for name, value in params.items() if name != "input"}, "store": False},
        input=normalise(items if is_ordered else [*items, {"type": TRIGGER}], new_id),
        echo=echo(params, model=params["model"]),
    )


async def _composed(
    request: Request, accepted: Accepted, context: Context, route: Route, caller: Caller, it: Resources
) -> Composer:
    """Generate as a create would, without storing anything."""
    run = engine.Run(
        provider=route.provider,
        accepted=accepted,
        context=context,
        composer=Composer(accepted.draft, is_heard=False),
        keeper=NewRow(it.db, it.entries, caller, accepted, route.provider.name),
        listener=None,
        max_run_seconds=it.settings.max_run_seconds,
    )
    running = rate_limits.settled(engine.run(run), it.db, caller, it.limits, accepted.draft)
    # Nothing of it is stored, so it is worth nothing to anybody else.
    return await awaited(request, running, it, ends_with_client=True)


def _item_of(composer: Composer) -> dict[str, Any]:
    """The compaction item; an upstream that is asked to compact by itself may have said more."""
    found = next((item for item in composer.output if item["type"] == COMPACTION), None)
    if found is None:
        raise UpstreamError("The model provider answered without a compaction item.")
    return found


def _answer(draft: Draft, output: list[Mapping[str, Any]], composer: Composer) -> dict[str, Any]:
    return {
        "id": ids.response_id(draft.id),
        "object": "response.compaction",
        "created_at": ids.created_at(draft.id),
        "output": output,
        "usage": complete_usage(composer.usage or {}),
    }
