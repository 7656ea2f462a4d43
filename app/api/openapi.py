"""What /openapi.json says of routes that read and write raw bytes."""

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI, Response

from app.api.schemas import conversation, input_tokens
from app.api.validation import create_schema, schema_of
from app.domain.echo import WIRE_ORDER

DESCRIPTION = """
The durable, self-hosted server of the OpenAI Responses API. Point any OpenAI client at `/v1`.

Responses and their items are kept in Postgres: continue one by `previous_response_id` or in a
`conversation`, read it, list what it was given, delete it. Errors have OpenAI's envelope; every answer
has an `x-request-id`.
"""

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
    "example": {
        "error": {
            "message": "Previous response with id 'resp_0' not found.",
            "type": "invalid_request_error",
            "param": "previous_response_id",
            "code": "previous_response_not_found",
        }
    },
}

_OPTIONAL = {"conversation", "prompt", "prompt_cache_options"}

_TYPES: Mapping[str, Any] = {
    "id": {"type": "string", "pattern": "^resp_[0-9a-f]{32}$"},
    "object": {"const": "response"},
    "created_at": {"type": "integer", "description": "Seconds since 1970."},
    "completed_at": {"type": ["integer", "null"], "description": "Only of a completed response."},
    "status": {"enum": ["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]},
    "model": {"type": "string", "description": "As the upstream resolved it."},
    "output": {"type": "array", "items": {"$ref": "#/components/schemas/Item"}},
    "tools": {"type": "array", "items": {"type": "object"}},
    "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
    "usage": {
        "type": ["object", "null"],
        "description": "Further keys of the upstream, such as OpenRouter's `cost`, are kept.",
        "properties": {
            name: {"type": "integer"} for name in ("input_tokens", "output_tokens", "total_tokens")
        },
    },
    "error": {"type": ["object", "null"], "description": "`code` and `message` of a failed response."},
}

_ITEM = {
    "type": "object",
    "required": ["type"],
    "properties": {"id": {"type": "string"}, "type": {"type": "string"}, "status": {"type": "string"}},
    "additionalProperties": True,
}


def _list_of(name: str) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["object", "data", "first_id", "last_id", "has_more"],
        "properties": {
            "object": {"const": "list"},
            "data": {"type": "array", "items": {"$ref": f"#/components/schemas/{name}"}},
            "first_id": {"type": ["string", "null"]},
            "last_id": {"type": ["string", "null"]},
            "has_more": {"type": "boolean"},
        },
    }


_RESPONSE = {
    "type": "object",
    "required": [name for name in WIRE_ORDER if name not in _OPTIONAL],
    "properties": {name: _TYPES.get(name, {}) for name in WIRE_ORDER},
}
_LISTED = {
    "type": "object",
    "description": "A response without its `output`.",
    "required": [name for name in WIRE_ORDER if name not in {*_OPTIONAL, "output"}],
    "properties": {name: _TYPES.get(name, {}) for name in WIRE_ORDER if name != "output"},
}
_DELETED = {
    "type": "object",
    "example": {"id": "resp_0196c1a2b3c4d5e6f708192a3b4c5d6e", "object": "response", "deleted": True},
}
_CONVERSATION = {
    "type": "object",
    "required": ["id", "object", "created_at", "metadata"],
    "properties": {
        "id": {"type": "string", "pattern": "^conv_[0-9a-f]{32}$"},
        "object": {"const": "conversation"},
        "created_at": _TYPES["created_at"],
        "metadata": _TYPES["metadata"],
    },
}


_DELETED_CONVERSATION = {
    "type": "object",
    "example": {
        "id": "conv_0196c1a2b3c4d5e6f708192a3b4c5d6e",
        "object": "conversation.deleted",
        "deleted": True,
    },
}
_CONTEXT_TYPES: Mapping[str, Any] = {
    "object": {"const": "context"},
    "data": {"type": "array", "items": {"$ref": "#/components/schemas/Item"}},
    "input_tokens": {"type": "integer", "description": "Of the items: a quarter of their bytes of JSON."},
    "input_tokens_are_estimated": {"const": True},
    "context_window_tokens": {"type": ["integer", "null"], "description": "Null: no limit is known."},
    "is_truncated": {"type": "boolean", "description": "Older items are left out."},
    "exceeds_context_window": {"type": "boolean", "description": "A next turn would be refused."},
    "open_tool_calls": {
        "type": "array",
        "description": "Calls for which the next input has to bring outputs.",
        "items": {
            "type": "object",
            "required": ["call_id", "type"],
            "properties": {"call_id": {"type": "string"}, "type": {"type": "string"}},
        },
    },
}
_CONTEXT = {"type": "object", "required": [*_CONTEXT_TYPES], "properties": _CONTEXT_TYPES}
_COUNTED = {
    "type": "object",
    "required": ["object", "input_tokens"],
    "properties": {
        "object": {"const": "response.input_tokens"},
        "input_tokens": {"type": "integer", "description": "An estimate."},
    },
}
_FILTER: Mapping[str, Any] = {
    "name": "metadata",
    "in": "query",
    "style": "deepObject",
    "explode": True,
    "description": "Only of those that have all these pairs: `metadata[key]=value`.",
    "schema": {"type": "object", "additionalProperties": {"type": "string"}},
}
_REQUESTS = {
    "CreateResponse": create_schema(),
    "CreateConversation": schema_of(conversation.CREATE),
    "UpdateConversation": schema_of(conversation.UPDATE),
    "AddItems": schema_of(conversation.ADD),
    "ForkConversation": schema_of(conversation.FORK),
    "CountInputTokens": schema_of(input_tokens.COUNT),
}
# They share definitions, which are the same under each name.
_DEFINITIONS = [request.pop("$defs", {}) for request in _REQUESTS.values()]

_SCHEMAS: Mapping[str, Any] = {
    **{name: schema for each in _DEFINITIONS for name, schema in each.items()},
    **_REQUESTS,
    "Response": _RESPONSE,
    "Conversation": _CONVERSATION,
    "Context": _CONTEXT,
    "ListedResponse": _LISTED,
    "Item": _ITEM,
    "Error": _ERROR,
}


def _answers(schema: Mapping[str, Any], *errors: int) -> dict[str, Any]:
    """Route arguments: the good answer's schema, and which errors it may give."""
    failed = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
    meanings = {400: "The request is wrong", 404: "Not found", 413: "Too large", 429: "Too many requests"}
    meanings |= {500: "Generation failed", 502: "The upstream failed", 503: "Unavailable", 504: "Too slow"}
    return {
        "response_model": None,
        "responses": {
            200: {"description": "Success", "content": {"application/json": {"schema": schema}}},
            **{status: {"description": meanings[status], **failed} for status in errors},
        },
    }


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _takes(name: str, *, is_required: bool = True) -> dict[str, Any]:
    """Route arguments: the body's schema."""
    content = {"application/json": {"schema": _ref(name)}}
    return {"openapi_extra": {"requestBody": {"required": is_required, "content": content}}}


_EVENTS = {
    "schema": {"type": "string", "description": "One `event:` and one `data:` line each, LF only."},
    "example": 'event: response.output_text.delta\ndata: {"type":"response.output_text.delta",…}\n\n',
}

CREATE = _answers(_ref("Response"), 400, 404, 413, 429, 500, 502, 503, 504) | _takes("CreateResponse")
CREATE["responses"][200]["content"]["text/event-stream"] = _EVENTS
GET = _answers(_ref("Response"), 400, 404, 503)
LIST: dict[str, Any] = _answers(_list_of("ListedResponse"), 400, 503) | {
    "openapi_extra": {"parameters": [_FILTER]}
}
EXPORT: dict[str, Any] = _answers({}, 400, 429, 503) | {
    "openapi_extra": {"parameters": [_FILTER]},
    "response_class": Response,  # Without it JSON is told of, too.
}
EXPORT["responses"][200]["content"] = {
    "application/x-ndjson": {
        "schema": {"type": "string", "description": "One JSON object a line; `object` names its kind."},
        "example": '{"object":"export","format_version":1,…}\n',
    },
    "application/vnd.apache.parquet": {"schema": {"type": "string", "format": "binary"}},
}
STATS = _answers({"type": "object"}, 400, 503)
LINEAGE = _answers({"type": "object"}, 400, 404, 503)
DELETE = _answers(_DELETED, 400, 404, 503)
CANCEL = _answers(_ref("Response"), 400, 404, 503)
ATTEMPTS = _answers({"type": "object"}, 400, 404, 503)
INPUT_ITEMS = _answers(_list_of("Item"), 400, 404, 503)
INPUT_TOKENS = _answers(_COUNTED, 400, 404, 413, 503) | _takes("CountInputTokens", is_required=False)
RESPONSE_CONTEXT = _answers(_ref("Context"), 400, 404, 503)
CONVERSATION_CONTEXT = _answers(_ref("Context"), 400, 404, 503)
CREATE_CONVERSATION = _answers(_ref("Conversation"), 400, 413, 503) | _takes(
    "CreateConversation", is_required=False
)
LIST_CONVERSATIONS: dict[str, Any] = _answers(_list_of("Conversation"), 400, 503) | {
    "openapi_extra": {"parameters": [_FILTER]}
}
GET_CONVERSATION = _answers(_ref("Conversation"), 400, 404, 503)
UPDATE_CONVERSATION = _answers(_ref("Conversation"), 400, 404, 413, 503) | _takes("UpdateConversation")
DELETE_CONVERSATION = _answers(_DELETED_CONVERSATION, 400, 404, 503)
FORK_CONVERSATION = _answers(_ref("Conversation"), 400, 404, 413, 503) | _takes(
    "ForkConversation", is_required=False
)
ADD_ITEMS = _answers(_list_of("Item"), 400, 404, 413, 503) | _takes("AddItems")
LIST_ITEMS = _answers(_list_of("Item"), 400, 404, 503)
GET_ITEM = _answers(_ref("Item"), 400, 404, 503)
DELETE_ITEM = _answers(_ref("Conversation"), 400, 404, 503)
AUDIT_RECORDS = _answers({"type": "object"}, 400, 503)
AUDIT_CHECKPOINTS = _answers({"type": "object"}, 400, 503)
AUDIT_VERIFICATION = _answers({"type": "object"}, 400, 503)
READY: dict[str, Any] = {"responses": {503: {"description": "Postgres is away"}}}
MODEL: dict[str, Any] = {"responses": {404: {"description": "No such model"}}}


def install(app: FastAPI) -> None:
    """Complete the generated document with the schemas that routes refer to."""
    generate: Callable[[], dict[str, Any]] = app.openapi

    def complete() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            schemas.update(_SCHEMAS)
            _guard(document)
            _drop_422(document)
        return app.openapi_schema or generate()

    app.openapi = complete


def _guard(document: dict[str, Any]) -> None:
    """Where a key is needed once there is one, and how it is refused."""
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    failed = {"content": {"application/json": {"schema": _ref("Error")}}}
    for path, operations in document["paths"].items():
        for operation in operations.values() if path.startswith("/v1/") else ():
            operation["security"] = [{}, {"key": []}]
            operation["responses"]["401"] = {"description": "No valid key", **failed}
            operation["responses"]["403"] = {"description": "The key lacks the scope", **failed}


def _drop_422(document: Mapping[str, Any]) -> None:
    """FastAPI announces an error that this server never gives: ours are 400 in OpenAI's envelope."""
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
