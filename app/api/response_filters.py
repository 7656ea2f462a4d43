"""The filters of responses in a query, as lists, statistics and exports take them."""

import re
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Annotated, Literal
from uuid import UUID

from fastapi import Depends, Query, Request

from app import ids
from app.api.identifiers import check_prefix
from app.api.metadata_filters import metadata_filters
from app.api.schemas import refusals
from app.domain.response import Status
from app.domain.search import Filters
from app.errors import InvalidRequest

_SECONDS = re.compile(r"\d{1,11}(\.\d{1,9})?", re.ASCII)

Text = Annotated[str | None, Query(max_length=512)]
StatusWord = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
Time = Annotated[str | None, Query(description="Seconds since 1970, or ISO 8601; without a zone it is UTC.")]


async def _filters(
    request: Request,
    model: Annotated[
        str | None, Query(max_length=512, description="Of this model, as it was resolved.")
    ] = None,
    status: StatusWord | None = None,
    created_after: Time = None,
    created_before: Time = None,
    conversation: Annotated[str | None, Query(description="Made in this conversation.")] = None,
    previous_response_id: Annotated[str | None, Query(description="Chained on this response.")] = None,
    root: Annotated[
        str | None, Query(description="Going back to this first response, or conversation; itself included.")
    ] = None,
    user: Text = None,
    safety_identifier: Text = None,
    background: bool | None = None,
    error_code: Text = None,
    tool: Annotated[str | None, Query(max_length=512, description="That called this tool.")] = None,
    has_attempts_over: Annotated[
        int | None, Query(ge=0, le=1000, description="That took more attempts than this.")
    ] = None,
    q: Annotated[
        str | None,
        Query(
            min_length=1,
            max_length=1000,
            description='Words of input and output; `"a phrase"`, `or`, `-not`.',
        ),
    ] = None,
) -> Filters:
    """Every filter there is; `metadata[key]=value` may be given for several keys."""
    _refuse_repeats(request)
    return Filters(
        model=model,
        status=Status[status.upper()] if status else None,
        created_after=_time("created_after", created_after),
        created_before=_time("created_before", created_before),
        conversation=_id("conversation", conversation, "conv"),
        previous=_id("previous_response_id", previous_response_id, "resp"),
        root=_id("root", root, "conv" if (root or "").startswith("conv") else "resp"),
        user=user,
        safety_identifier=safety_identifier,
        metadata=metadata_filters(request),
        is_background=background,
        error_code=error_code,
        tool=tool,
        attempts_over=has_attempts_over,
        words=q,
    )


FiltersDep = Annotated[Filters, Depends(_filters)]


def parse_time(name: str, text: str) -> datetime:
    """An instant as a query gives it.

    Raises:
        InvalidRequest: it is neither a number of seconds nor ISO 8601, or no calendar has it.
    """
    try:
        if _SECONDS.fullmatch(text):
            return datetime.fromtimestamp(float(text), UTC)
        # A plus sign in a query is a space.
        found = datetime.fromisoformat(
            text.replace(" ", "+") if text.count(" ") == 1 and "T" in text else text
        )
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidRequest(
            f"Invalid '{name}': expected seconds since 1970 or ISO 8601, but got '{text[:64]}' instead.",
            code="invalid_value",
            param=name,
        ) from None


async def _check_names(request: Request) -> None:
    """A filter whose name has a slip in it would be one that is ignored."""
    route = request.app.openapi()["paths"][request.scope["route"].path]["get"]
    known = [each["name"] for each in route["parameters"] if each["in"] == "query"]
    for name in request.query_params:
        if name not in known and not ("metadata" in known and name.startswith("metadata[")):
            raise refusals.unknown(refusals.clip(name), get_close_matches(name, known, n=1))


KNOWN_NAMES = [Depends(_check_names)]
"""Of routes that count or list: they refuse a parameter that they do not know."""


def _refuse_repeats(request: Request) -> None:
    """A filter that is given twice with two values would be one that is ignored."""
    given = dict[str, str]()
    for name, value in request.query_params.multi_items():
        if not name.startswith("include") and given.setdefault(name, value) != value:
            raise InvalidRequest(
                f"Invalid '{name[:64]}': it was given twice, with different values.",
                code="invalid_value",
                param=name[:64],
            )


def _time(name: str, text: str | None) -> datetime | None:
    return None if text is None else parse_time(name, text)


def _id(param: str, text: str | None, prefix: str) -> UUID | None:
    """What no response can have is a mistake; what none has finds nothing."""
    if text is None:
        return None
    check_prefix(param, text, prefix)
    key = ids.parse_conversation_id(text) if prefix == "conv" else ids.parse_response_id(text)
    if key is None:
        raise InvalidRequest(
            f"Invalid '{param}': nothing can have the id '{text}'.", code="invalid_value", param=param
        )
    return key
