"""What /openapi.json says of webhooks."""

from collections.abc import Mapping
from typing import Any

from app.api.openapi_pieces import answers, list_of, ref, takes
from app.api.schemas import webhooks
from app.domain.webhooks import EVENT_TYPES as FIRED

_SECONDS = {"type": "integer", "description": "Seconds since 1970."}
_MOMENT = {"type": ["number", "null"], "description": "Seconds since 1970."}
_ENDPOINT_ID = {"type": "string", "pattern": "^we_[0-9a-f]{32}$"}
_EVENT_ID = {"type": "string", "pattern": "^evt_[0-9a-f]{32}$"}
_FIELDS: Mapping[str, Any] = {
    "id": _ENDPOINT_ID,
    "object": {"const": "webhook_endpoint"},
    "name": {"type": "string"},
    "url": {"type": "string"},
    "event_types": {"type": "array", "items": {"enum": list(FIRED)}},
    "created_at": _SECONDS,
    "updated_at": _SECONDS,
    "signing_secret_hint": {"type": "string"},
    "status": {"enum": ["enabled", "disabled"], "description": "Disabled once it has answered 410."},
}
_SECRET = {"type": "string", "description": "`whsec_` and base64; in this answer alone."}
_ATTEMPT = {
    "type": "object",
    "properties": {
        "attempt": {"type": "integer"},
        "started_at": _MOMENT,
        "ended_at": _MOMENT,
        "status_code": {"type": ["integer", "null"]},
        "reason": {"type": ["string", "null"], "description": "How it ended; null while it runs."},
    },
}
_OF_DELIVERY: Mapping[str, Any] = {
    "id": _EVENT_ID,
    "object": {"const": "webhook_delivery"},
    "webhook_endpoint_id": _ENDPOINT_ID,
    "event_type": {"enum": list(FIRED)},
    "response_id": {"type": "string"},
    "status": {"enum": ["pending", "delivered", "failed"]},
    "created_at": _SECONDS,
    "attempt_count": {"type": "integer"},
    "due_at": _MOMENT,
    "ended_at": _MOMENT,
}


def _object(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": [*fields], "properties": {**fields}}


REQUESTS = {
    "CreateWebhookEndpoint": webhooks.CREATE,
    "UpdateWebhookEndpoint": webhooks.UPDATE,
    "RotateWebhookSecret": webhooks.ROTATE,
    "TestWebhookEndpoint": webhooks.TEST,
}
SCHEMAS: Mapping[str, Any] = {
    "WebhookEndpoint": _object(_FIELDS),
    "WebhookEndpointWithSecret": _object({**_FIELDS, "signing_secret": _SECRET}),
    "WebhookDelivery": _object(_OF_DELIVERY),
    "WebhookDeliveryWithAttempts": _object(
        {**_OF_DELIVERY, "attempts": {"type": "array", "items": _ATTEMPT}}
    ),
}
_TESTED = _object(
    {
        "object": {"const": "webhook_endpoint.test"},
        "success": {"type": "boolean"},
        "status_code": {"type": "integer"},
        "event_type": {"enum": list(FIRED)},
        "webhook_endpoint_id": _ENDPOINT_ID,
    }
)
_DELETED = {
    "type": "object",
    "example": {
        "id": "we_0196c1a2b3c4d5e6f708192a3b4c5d6e",
        "object": "webhook_endpoint.deleted",
        "deleted": True,
    },
}

EVENT_TYPES = answers({"type": "object"}, 503)
CREATE = answers(ref("WebhookEndpointWithSecret"), 400, 413, 503) | takes("CreateWebhookEndpoint")
LIST = answers(list_of("WebhookEndpoint"), 400, 503)
GET = answers(ref("WebhookEndpoint"), 400, 404, 503)
UPDATE = answers(ref("WebhookEndpoint"), 400, 404, 413, 503) | takes("UpdateWebhookEndpoint")
DELETE = answers(_DELETED, 400, 404, 503)
ROTATE = answers(ref("WebhookEndpointWithSecret"), 400, 404, 413, 503) | takes(
    "RotateWebhookSecret", is_required=False
)
TEST = answers(_TESTED, 400, 404, 413, 503) | takes("TestWebhookEndpoint")
DELIVERIES = answers(list_of("WebhookDelivery"), 400, 404, 503)
DELIVERY = answers(ref("WebhookDeliveryWithAttempts"), 400, 404, 503)
