"""The list envelope, and cutting a page out of an ordered walk (surface notes §1.3)."""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Annotated, Any, Literal, get_args

import orjson
from fastapi import Query, Response

from app.domain.search import MAX_PAGE
from app.errors import InvalidRequest

Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="How many at most.")]
Direction = Literal["asc", "desc"]
DIRECTIONS = frozenset(get_args(Direction))
Order = Annotated[Direction, Query(description="By time or place; `desc` is newest first.")]
After = Annotated[str | None, Query(description="Go on after the object with this id.")]


def envelope(objects: Sequence[bytes], ids: Sequence[str], *, has_more: bool) -> Response:
    """A page whose objects are JSON already."""
    ends = orjson.dumps(
        {"first_id": ids[0] if ids else None, "last_id": ids[-1] if ids else None, "has_more": has_more}
    )
    body = b'{"object":"list","data":[' + b",".join(objects) + b"]," + ends[1:]
    return Response(body, media_type="application/json")


def cut(
    items: Iterable[dict[str, Any]], *, after: str | None, limit: int
) -> tuple[list[dict[str, Any]], bool]:
    """The items after the cursor in the order of the walk, and whether more follow. Reads no further.

    Raises:
        InvalidRequest: no item of the walk has the cursor's id; page one would be a false answer.
    """
    walk = iter(items)
    if after is not None and not any(item["id"] == after for item in walk):
        raise unknown_cursor(after)
    page = list(islice(walk, limit))
    return page, next(walk, None) is not None


def unknown_cursor(after: str) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid 'after': no item with id '{after}' in this list.", code="invalid_value", param="after"
    )
