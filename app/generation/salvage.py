"""Bring a composer to where a vanished run's journal ends, so that its response can be ended in words.

The journal is a stream of the Responses API, which is what the adapter to such upstreams reads: the same
reading gives the deltas again, and the same composer, fed with them, stands where the lost one stood.
"""

import orjson

from app.domain.jobs import SHOWN_BEFORE_OUTPUT, SHOWN_BY_QUEUEING
from app.domain.response import Draft
from app.generation.composer import Composer
from app.providers.base import Started
from app.providers.responses_events import ResponsesFold
from app.providers.upstream_errors import UpstreamErrors


def salvage(draft: Draft, frames: bytes) -> Composer:
    """The composer after the last of these frames (all of the journal); not closed yet."""
    fold = ResponsesFold(UpstreamErrors("journal", None))
    composer = Composer(draft, begins_at=SHOWN_BY_QUEUEING, keeps_shape=True)
    said = [orjson.loads(frame.partition(b"\ndata: ")[2]) for frame in frames.split(b"\n\n")[:-1]]
    composer.feed(Started(said[SHOWN_BY_QUEUEING]["response"]["model"]))
    for event in said[SHOWN_BEFORE_OUTPUT:]:
        for delta in fold.feed(event):
            composer.feed(delta)
    return composer
