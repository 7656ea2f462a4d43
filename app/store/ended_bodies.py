"""What a response is that was ended from outside its run: cancelled, or failed by the reaper."""

from uuid import UUID

import orjson

from app.domain.items import NO_ITEMS
from app.domain.response import Draft, Status, snapshot
from app.store.codec import decompress
from app.store.db import Row


def ended_body(row: Row, status: Status, error: dict[str, str] | None) -> bytes:
    """The response as its request alone decides it: nothing of a run is in it."""
    codec = row["codec"]
    params, body = (orjson.loads(decompress(row[name], codec)) for name in ("request", "body"))
    draft = Draft(UUID(int=row["id"].int), body["model"], params, NO_ITEMS, body)
    return orjson.dumps(snapshot(draft, status=status, error=error))
