"""A background response's events as a stream, from any place in it."""

from uuid import UUID

from fastapi import Response

from app.api import sse
from app.domain.tenancy import Caller
from app.generation.follow import follow
from app.resources import Resources


def follow_stream(
    response_id: UUID, caller: Caller, it: Resources, *, after: int, is_padded: bool
) -> Response:
    """A stream of everything beyond `after`, from any process, for any number of followers."""
    followed = follow(
        it.db,
        caller,
        it.notifications,
        response_id,
        after=after,
        is_padded=is_padded,
        poll_seconds=min(it.settings.follow_poll_seconds, it.settings.keepalive_seconds),
    )
    return sse.EventStream(sse.replay(followed, sends_done=it.settings.send_done), attended=it.attended)
