"""JSON bodies: those of requests, read and checked, and those of answers."""

from typing import Any

import orjson
from fastapi import Request, Response
from pydantic import TypeAdapter

from app.api.bodies import read_body
from app.api.limits import check_items
from app.api.validation import check_names, check_shape, parse_object
from app.resources import Resources


async def read_params(
    request: Request, it: Resources, adapter: TypeAdapter[Any], declared: type, *, items: str = ""
) -> dict[str, Any]:
    """The body, checked; none at all is an empty one.

    Args:
        declared: What the adapter takes: a name that it does not have is refused before all else.
        items: The path of what may be many, or large.

    Raises:
        RequestError: it is too large, too slow, or not what the adapter takes.
    """
    body = await read_body(request, it.settings)
    params = parse_object(body) if body else {}
    check_names(params, frozenset(declared.__annotations__))
    if items:
        check_items(items, _at(params, items), body, it.settings)
    check_shape(adapter, params)
    return params


def as_json(answer: object) -> Response:
    """An answer that is no bytes yet."""
    return Response(orjson.dumps(answer), media_type="application/json")


def _at(params: Any, path: str) -> Any:
    """What stands there, if anything does."""
    for name in path.split("."):
        params = params.get(name) if isinstance(params, dict) else None
    return params
