"""What /openapi.json says of routes that read and write raw bytes."""

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI, Response

from app.api import openapi_webhooks
from app.api.openapi_pieces import answers, list_of, ref, takes
from app.api.schemas import compact, conversation, input_tokens, prompt
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
_VERSION_TYPES: Mapping[str, Any] = {
    "object": {"const": "prompt.version"},
    "prompt_id": {"type": "string"},
    "version": {"type": "string"},
    "created_at": _TYPES["created_at"],
    "is_default": {"type": "boolean", "description": "It counts where a create names no version."},
    "variables": {"type": "array", "items": {"type": "string"}, "description": "The names of its places."},
    "template": {"$ref": "#/components/schemas/PromptTemplate"},
}
_VERSION = {"type": "object", "required": [*_VERSION_TYPES], "properties": _VERSION_TYPES}
_PROMPT_TYPES: Mapping[str, Any] = {
    "id": {"type": "string", "pattern": "^pmpt_"},
    "object": {"const": "prompt"},
    "created_at": _TYPES["created_at"],
    "name": {"type": "string"},
    "metadata": _TYPES["metadata"],
    "latest_version": {"type": "string"},
    "default_version": {"type": "string"},
    "is_pinned": {"type": "boolean", "description": "Whether newer versions leave the default as it is."},
}
_PROMPT = {
    "type": "object",
    "required": [*_PROMPT_TYPES],
    "properties": {**_PROMPT_TYPES, "version": {"$ref": "#/components/schemas/PromptVersion"}},
}
_DELETED_PROMPT = {
    "type": "object",
    "example": {"id": "pmpt_0196c1a2b3c4d5e6f708192a3b4c5d6e", "object": "prompt.deleted", "deleted": True},
}
_COMPACTED = {
    "type": "object",
    "required": ["id", "object", "created_at", "output", "usage"],
    "properties": {
        "id": {**_TYPES["id"], "description": "Of no stored response: it cannot be continued or read."},
        "object": {"const": "response.compaction"},
        "created_at": _TYPES["created_at"],
        "output": _TYPES["output"],
        "usage": _TYPES["usage"],
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
    "CreateConversation": conversation.CREATE,
    "UpdateConversation": conversation.UPDATE,
    "AddItems": conversation.ADD,
    "ForkConversation": conversation.FORK,
    "CountInputTokens": input_tokens.COUNT,
    "CreatePrompt": prompt.CREATE,
    "CreatePromptVersion": prompt.EXTEND,
    "UpdatePrompt": prompt.UPDATE,
    "CompactResponse": compact.COMPACT,
    **openapi_webhooks.REQUESTS,
}


def _schemas() -> dict[str, Any]:
    """What routes refer to. Built for whoever asks, because it takes a sixth of the time of a start."""
    requests = {name: schema_of(adapter) for name, adapter in _REQUESTS.items()}
    requests["CreateResponse"] = create_schema()
    # They share definitions, which are the same under each name.
    definitions = [request.pop("$defs", {}) for request in requests.values()]
    return {
        **{name: schema for each in definitions for name, schema in each.items()},
        **requests,
        "Response": _RESPONSE,
        "Conversation": _CONVERSATION,
        "Context": _CONTEXT,
        "ListedResponse": _LISTED,
        "Prompt": _PROMPT,
        "PromptVersion": _VERSION,
        "Item": _ITEM,
        "Error": _ERROR,
        **openapi_webhooks.SCHEMAS,
    }


_EVENTS = {
    "schema": {"type": "string", "description": "One `event:` and one `data:` line each, LF only."},
    "example": 'event: response.output_text.delta\ndata: {"type":"response.output_text.delta",…}\n\n',
}

CREATE = answers(ref("Response"), 400, 404, 413, 429, 500, 502, 503, 504) | takes("CreateResponse")
CREATE["responses"][200]["content"]["text/event-stream"] = _EVENTS
GET = answers(ref("Response"), 400, 404, 503)
LIST: dict[str, Any] = answers(list_of("ListedResponse"), 400, 503) | {
    "openapi_extra": {"parameters": [_FILTER]}
}
EXPORT: dict[str, Any] = answers({}, 400, 429, 503) | {
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
STATS = answers({"type": "object"}, 400, 503)
LINEAGE = answers({"type": "object"}, 400, 404, 503)
DELETE = answers(_DELETED, 400, 404, 503)
CANCEL = answers(ref("Response"), 400, 404, 503)
ATTEMPTS = answers({"type": "object"}, 400, 404, 503)
INPUT_ITEMS = answers(list_of("Item"), 400, 404, 503)
INPUT_TOKENS = answers(_COUNTED, 400, 404, 413, 503) | takes("CountInputTokens", is_required=False)
RESPONSE_CONTEXT = answers(ref("Context"), 400, 404, 503)
CONVERSATION_CONTEXT = answers(ref("Context"), 400, 404, 503)
COMPACT = answers(_COMPACTED, 400, 404, 413, 429, 500, 502, 503, 504) | takes("CompactResponse")
CREATE_CONVERSATION = answers(ref("Conversation"), 400, 413, 503) | takes(
    "CreateConversation", is_required=False
)
LIST_CONVERSATIONS: dict[str, Any] = answers(list_of("Conversation"), 400, 503) | {
    "openapi_extra": {"parameters": [_FILTER]}
}
GET_CONVERSATION = answers(ref("Conversation"), 400, 404, 503)
UPDATE_CONVERSATION = answers(ref("Conversation"), 400, 404, 413, 503) | takes("UpdateConversation")
DELETE_CONVERSATION = answers(_DELETED_CONVERSATION, 400, 404, 503)
FORK_CONVERSATION = answers(ref("Conversation"), 400, 404, 413, 503) | takes(
    "ForkConversation", is_required=False
)
ADD_ITEMS = answers(list_of("Item"), 400, 404, 413, 503) | takes("AddItems")
LIST_ITEMS = answers(list_of("Item"), 400, 404, 503)
GET_ITEM = answers(ref("Item"), 400, 404, 503)
DELETE_ITEM = answers(ref("Conversation"), 400, 404, 503)
CREATE_PROMPT = answers(ref("Prompt"), 400, 413, 503) | takes("CreatePrompt")
LIST_PROMPTS = answers(list_of("Prompt"), 400, 503)
GET_PROMPT = answers(ref("Prompt"), 400, 404, 503)
UPDATE_PROMPT = answers(ref("Prompt"), 400, 404, 413, 503) | takes("UpdatePrompt")
DELETE_PROMPT = answers(_DELETED_PROMPT, 400, 404, 503)
CREATE_PROMPT_VERSION = answers(ref("PromptVersion"), 400, 404, 413, 503) | takes("CreatePromptVersion")
LIST_PROMPT_VERSIONS = answers(list_of("PromptVersion"), 400, 404, 503)
AUDIT_RECORDS = answers({"type": "object"}, 400, 503)
AUDIT_CHECKPOINTS = answers({"type": "object"}, 400, 503)
AUDIT_VERIFICATION = answers({"type": "object"}, 400, 503)
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
            schemas.update(_schemas())
            _guard(document)
            _drop_422(document)
        return app.openapi_schema or generate()

    app.openapi = complete


def _guard(document: dict[str, Any]) -> None:
    """Where a key is needed once there is one, and how it is refused."""
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    failed = {"content": {"application/json": {"schema": ref("Error")}}}
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
