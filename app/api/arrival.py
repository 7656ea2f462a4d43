"""How a create came: what it needs to know of its transport, and of no particular one."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from starlette.datastructures import Headers

from app.domain.idempotency import IdempotencyKey
from app.generation.history import Recall, nothing

AnswerHeaders = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Arrival:
    """One create on its way in. HTTP makes one of a request, a WebSocket one of a frame."""

    headers: Headers
    """Choices that have no place in the body: `app.api.headers`."""
    idempotency_key: Callable[[], IdempotencyKey | None]
    """Read when it is needed, because a malformed key is refused after a malformed body."""
    is_abandoned: Callable[[], Awaitable[bool]]
    """Whether nobody waits for the answer any more."""
    tell: Callable[[AnswerHeaders], None]
    """Have these said with the answer, whatever that will be."""
    recall: Recall = nothing
    """What the connection remembers beside the store."""
    max_waiting_bytes: int | None = None
    """How far the client may lag behind before the upstream waits for it; None is as far as any."""
