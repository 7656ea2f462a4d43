"""What descriptions of routes are put together from."""

from collections.abc import Mapping
from typing import Any


def list_of(name: str) -> dict[str, Any]:
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


def answers(schema: Mapping[str, Any], *errors: int) -> dict[str, Any]:
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


def ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def takes(name: str, *, is_required: bool = True) -> dict[str, Any]:
    """Route arguments: the body's schema."""
    content = {"application/json": {"schema": ref(name)}}
    return {"openapi_extra": {"requestBody": {"required": is_required, "content": content}}}
