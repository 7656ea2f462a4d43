"""Cancel a background response: final at once, whatever its run may still do."""

from uuid import UUID

from app.domain.jobs import Claim, Mode
from app.domain.response import Status
from app.domain.tenancy import Caller
from app.errors import Conflict
from app.generation.news import tell_followers, tell_workers
from app.store import attempts, events, lifecycle
from app.store.db import Database

_TOO_LATE = {
    Status.COMPLETED: "Cannot cancel a completed response.",
    Status.FAILED: "Cannot cancel a failed response.",
    Status.INCOMPLETE: "Cannot cancel an incomplete response.",
}


async def cancel(db: Database, caller: Caller, response_id: UUID, *, ttl_seconds: float) -> bool:
    """Cancel, or find it cancelled already; False if there is no such response.

    The row is changed in one guarded step: a queued response never starts, and a run that completes
    later finds its attempt fenced off. The worker hears of it and closes its upstream.

    Raises:
        Conflict: it is a foreground response, or has ended otherwise.
    """
    async with db.begin(caller) as tx:
        row = await lifecycle.lock(tx, response_id)
        if row is None:
            return False
        if Mode.BACKGROUND not in Mode(row["mode"]):
            raise Conflict("Cannot cancel a synchronous response.")
        status = Status(row["status"])
        if status in _TOO_LATE:
            raise Conflict(_TOO_LATE[status])
        if status is Status.CANCELLED:
            return True
        shown = await events.count(tx, response_id)
        await lifecycle.end(tx, row, Status.CANCELLED, event_count=shown, ttl_seconds=ttl_seconds, error=None)
        if status is Status.IN_PROGRESS:
            claim = Claim(caller.tenant_id, response_id, row["attempt"])
            await attempts.end(tx, claim, "cancelled")
    await tell_workers(db, response_id)
    await tell_followers(db, [response_id])
    return True
