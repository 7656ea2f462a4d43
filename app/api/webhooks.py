"""/v1/webhook_endpoints: where a tenant is told that its background responses have ended, and the log."""

from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from fastapi import APIRouter, Query, Request, Response

from app import ids
from app.api import openapi_webhooks as openapi
from app.api import pages
from app.api.deps import CallerDep, ResourcesDep
from app.api.identifiers import check_prefix
from app.api.json_bodies import as_json, read_params
from app.api.schemas import webhooks as schemas
from app.api.scopes import READS, WRITES
from app.domain.webhooks import EVENT_TYPES, State
from app.store import webhook_deliveries, webhook_endpoints
from app.store.webhook_endpoints import Changes
from app.webhooks import endpoints

router = APIRouter(prefix="/v1", tags=["webhooks"])


@router.get("/webhook_event_types", dependencies=READS, **openapi.EVENT_TYPES)
async def list_event_types() -> dict[str, Any]:
    """List what endpoints can be told of."""
    return {"object": "list", "data": list(EVENT_TYPES)}


@router.post("/webhook_endpoints", dependencies=WRITES, **openapi.CREATE)
async def create_endpoint(request: Request, caller: CallerDep, it: ResourcesDep) -> Response:
    """Create an endpoint. Its signing secret is in this answer and in no later one."""
    params = await read_params(request, it, schemas.CREATE, schemas.CreateWebhookEndpoint)
    async with it.db.begin(caller) as tx:
        made, secret = await endpoints.create(
            tx,
            _changes(params),
            it.seals,
            most=it.settings.max_webhook_endpoints,
            allowed=it.settings.webhook_allowed_networks,
        )
    return as_json(made.shown(secret))


@router.get("/webhook_endpoints", dependencies=READS, **openapi.LIST)
async def list_endpoints(
    caller: CallerDep, it: ResourcesDep, limit: pages.Limit = 20, after: pages.After = None
) -> Response:
    """List the endpoints, newest first."""
    cursor = None if after is None else _cursor(after, "we", ids.parse_webhook_endpoint_id(after))
    async with it.db.read(caller) as tx:
        found = await webhook_endpoints.page(tx, after=cursor, limit=limit + 1)
    return _listed([each.shown() for each in found], limit)


@router.get("/webhook_endpoints/{webhook_endpoint_id}", dependencies=READS, **openapi.GET)
async def get_endpoint(webhook_endpoint_id: str, caller: CallerDep, it: ResourcesDep) -> Response:
    """Read an endpoint, without its secret."""
    async with it.db.read(caller) as tx:
        return as_json((await endpoints.get(tx, _endpoint_key(webhook_endpoint_id))).shown())


@router.post("/webhook_endpoints/{webhook_endpoint_id}", dependencies=WRITES, **openapi.UPDATE)
async def update_endpoint(
    request: Request, webhook_endpoint_id: str, caller: CallerDep, it: ResourcesDep
) -> Response:
    """Change the name, the URL or the whole set of event types. What is queued goes to the new URL."""
    key = _endpoint_key(webhook_endpoint_id)
    params = await read_params(request, it, schemas.UPDATE, schemas.UpdateWebhookEndpoint)
    async with it.db.begin(caller) as tx:
        changed = await endpoints.update(
            tx, key, _changes(params), allowed=it.settings.webhook_allowed_networks
        )
    return as_json(changed.shown())


@router.delete("/webhook_endpoints/{webhook_endpoint_id}", dependencies=WRITES, **openapi.DELETE)
async def delete_endpoint(
    webhook_endpoint_id: str, caller: CallerDep, it: ResourcesDep
) -> dict[str, str | bool]:
    """Delete an endpoint, with what is queued for it and with its log."""
    async with it.db.begin(caller) as tx:
        await endpoints.delete(tx, _endpoint_key(webhook_endpoint_id))
    return {"id": webhook_endpoint_id, "object": "webhook_endpoint.deleted", "deleted": True}


@router.post("/webhook_endpoints/{webhook_endpoint_id}/rotate_secret", dependencies=WRITES, **openapi.ROTATE)
async def rotate_secret(
    request: Request, webhook_endpoint_id: str, caller: CallerDep, it: ResourcesDep
) -> Response:
    """Give an endpoint a new signing secret, shown this once. The old one ends at once, or signs beside it
    for 24 hours.
    """
    key = _endpoint_key(webhook_endpoint_id)
    params = await read_params(request, it, schemas.ROTATE, schemas.RotateWebhookSecret)
    keeps_old = bool(params.get("keep_old_secret_active_for_24_hours"))
    async with it.db.begin(caller) as tx:
        changed, secret = await endpoints.rotate(tx, key, it.seals, keeps_old=keeps_old)
    return as_json(changed.shown(secret))


@router.post("/webhook_endpoints/{webhook_endpoint_id}/test", dependencies=WRITES, **openapi.TEST)
async def test_endpoint(
    request: Request, webhook_endpoint_id: str, caller: CallerDep, it: ResourcesDep
) -> Response:
    """Send a signed sample at once and say what was answered. Only 2xx is a success. Its response does not
    exist.
    """
    key = _endpoint_key(webhook_endpoint_id)
    params = await read_params(request, it, schemas.TEST, schemas.TestWebhookEndpoint)
    told = await endpoints.sample(it.db, caller, it.webhooks, it.seals, key, event_type=params["event_type"])
    return as_json(told)


Standing = Annotated[
    Literal["pending", "delivered", "failed"] | None, Query(description="Only those that stand so.")
]


@router.get("/webhook_endpoints/{webhook_endpoint_id}/deliveries", dependencies=READS, **openapi.DELIVERIES)
async def list_deliveries(
    webhook_endpoint_id: str,
    caller: CallerDep,
    it: ResourcesDep,
    limit: pages.Limit = 20,
    order: pages.Order = "desc",
    after: pages.After = None,
    status: Standing = None,
) -> Response:
    """List what was, and is to be, delivered to an endpoint, in the order of the responses. An extension of
    ours.
    """
    key = _endpoint_key(webhook_endpoint_id)
    cursor = None if after is None else _cursor(after, "evt", ids.parse_event_id(after))
    async with it.db.read(caller) as tx:
        await endpoints.get(tx, key)
        found = await webhook_deliveries.page(
            tx,
            key,
            limit=limit + 1,
            newest_first=order == "desc",
            after=cursor,
            state=State[status.upper()] if status else None,
        )
    return _listed([each.shown() for each in found], limit)


@router.get(
    "/webhook_endpoints/{webhook_endpoint_id}/deliveries/{event_id}",
    dependencies=READS,
    **openapi.DELIVERY,
)
async def get_delivery(
    webhook_endpoint_id: str, event_id: str, caller: CallerDep, it: ResourcesDep
) -> Response:
    """Read a delivery with every attempt at it. An extension of ours."""
    key, event = _endpoint_key(webhook_endpoint_id), _event_key(event_id)
    async with it.db.read(caller) as tx:
        await endpoints.get(tx, key)
        return as_json(await endpoints.delivery(tx, key, event))


@router.post(
    "/webhook_endpoints/{webhook_endpoint_id}/deliveries/{event_id}/replay",
    dependencies=WRITES,
    **openapi.DELIVERY,
)
async def replay_delivery(
    webhook_endpoint_id: str, event_id: str, caller: CallerDep, it: ResourcesDep
) -> Response:
    """Deliver an event once more, with the same id and body, whatever became of it. An extension of ours."""
    key, event = _endpoint_key(webhook_endpoint_id), _event_key(event_id)
    async with it.db.begin(caller) as tx:
        await endpoints.get(tx, key)
        told = await endpoints.replay(tx, key, event)
    await it.ring_deliveries()
    return as_json(told)


def _changes(params: dict[str, Any]) -> Changes:
    types = params.get("event_types")
    return Changes(params.get("name"), params.get("url"), types and list(dict.fromkeys(types)))


def _endpoint_key(name: str) -> UUID:
    """The key of a well-formed id.

    Raises:
        InvalidRequest: it is not an id of an endpoint at all.
        NotFound: nothing can have this id.
    """
    check_prefix("webhook_endpoint_id", name, "we")
    if (key := ids.parse_webhook_endpoint_id(name)) is None:
        raise endpoints.missing(name)
    return key


def _event_key(name: str) -> UUID:
    """The key of an event; errors as for `_endpoint_key`."""
    check_prefix("event_id", name, "evt")
    if (key := ids.parse_event_id(name)) is None:
        raise endpoints.no_delivery(name)
    return key


def _cursor(after: str, prefix: str, key: UUID | None) -> UUID:
    check_prefix("after", after, prefix)
    if key is None:
        raise pages.unknown_cursor(after)
    return key


def _listed(found: list[dict[str, Any]], limit: int) -> Response:
    page = found[:limit]
    return pages.envelope(
        [orjson.dumps(each) for each in page], [each["id"] for each in page], has_more=len(found) > limit
    )
