"""Begin an export, or go on with one: what it is bound by, and that it was asked for.

What bounds it is settled here once, so that nothing that happens later changes what is said.
"""

import asyncio
from datetime import datetime, timedelta

import structlog

from app import ids
from app.domain.audit import Checkpoint, Head
from app.domain.export import NOTHING, Bounds, Chain, Export, NoCursor, Place, decode, given
from app.domain.search import Filters
from app.domain.tenancy import Caller
from app.errors import InvalidRequest
from app.generation.export import note
from app.generation.ledger import Ledger
from app.store import audit, exports
from app.store.db import Database

log: structlog.stdlib.BoundLogger = structlog.get_logger()

POLL_SECONDS = 0.05
OPEN_SECONDS = 30.0
"""How long what was under way may take to end before an export begins."""

SEGMENT_MARGIN = timedelta(minutes=1)
"""A checkpoint is dated when its transaction began; what it vouches for may be dated a moment later."""


async def begin(
    ledger: Ledger, caller: Caller, filters: Filters, *, form: str, patience_seconds: float = 0
) -> tuple[Export, Chain]:
    """Settle what belongs to an export, and note that it was begun.

    Whatever was stored before belongs to it, and nothing that is stored later. Where much is yet to be
    settled (docs/decisions/0023), that is waited for: filters would not find it.

    Args:
        patience_seconds: How long workers may stand still before this process settles by itself.
    """
    db = ledger.db
    before = await _moment(db)
    async with db.read(caller) as tx:
        until = await exports.last_id(tx)
    await _settle(ledger, caller, patience_seconds)
    after = await _segment_start(db, caller, filters.created_after)
    last, is_vouched = await _segment_end(ledger, caller)
    bounds = Bounds(before, until or NOTHING, after, last, is_vouched)
    export = Export(ids.new_uuid(), caller.tenant_id, filters, bounds)
    said = {"state": "begun", "format": form, "filters": given(filters), "audit_until": last.seq}
    await note(db, caller, {"export": export.name, **said})
    return export, Chain(Place(seq=after.seq))


async def resume(ledger: Ledger, caller: Caller, filters: Filters, cursor: str) -> tuple[Export, Chain]:
    """Go on with an export that broke off, and note that.

    Raises:
        InvalidRequest: the cursor is none of this tenant's, or belongs to other filters.
    """
    try:
        export, place = decode(cursor, caller.tenant_id, filters)
    except NoCursor as error:
        raise InvalidRequest(f"Invalid 'resume': {error}.", code="invalid_value", param="resume") from None
    said = {"export": export.name, "state": "resumed", "responses": place.responses}
    await note(ledger.db, caller, said)
    chain = Chain(place)
    chain.open(cursor)
    return export, chain


async def _moment(db: Database) -> datetime:
    """A moment before which nothing more will have ended: what was under way is waited for."""
    async with db.begin_system() as tx:
        before = await exports.now(tx)
    for _ in range(int(OPEN_SECONDS / POLL_SECONDS)):
        async with db.begin_system() as tx:
            if not await exports.is_any_open(tx, before=before):
                return before
        await asyncio.sleep(POLL_SECONDS)
    log.warning("export.not_waited_for", seconds=OPEN_SECONDS)
    return before


async def _settle(ledger: Ledger, caller: Caller, patience_seconds: float) -> None:
    """See to it that what is noted until now has its place in the trail, and can be found."""
    waiting = await _waiting(ledger.db, caller)
    last, quiet = waiting.newest, 0.0
    while waiting.oldest <= last:
        is_alone, before = quiet >= patience_seconds, waiting
        await (ledger.settle(caller) if is_alone else asyncio.sleep(POLL_SECONDS))
        waiting = await _waiting(ledger.db, caller)
        if waiting.oldest == before.oldest and is_alone:
            log.warning("export.not_settled", tenant_id=caller.tenant_id)
            return
        if not is_alone:
            quiet = quiet + POLL_SECONDS if waiting.oldest == before.oldest else 0.0


async def _waiting(db: Database, caller: Caller) -> exports.Waiting:
    async with db.read(caller) as tx:
        return await exports.waiting(tx)


async def _segment_start(db: Database, caller: Caller, created_after: datetime | None) -> Head:
    """Where the trail tells nothing yet of what was created after this."""
    if created_after is None:
        return Head()
    async with db.read(caller) as tx:
        return await exports.checkpoint_before(tx, created_after - SEGMENT_MARGIN) or Head()


async def _segment_end(ledger: Ledger, caller: Caller) -> tuple[Head, bool]:
    """Where the trail ends now, vouched for if this process can; and whether it is."""
    tenant_id, signer = caller.tenant_id, ledger.signer
    async with ledger.db.begin_system() as tx:
        mine = tx.of(tenant_id)
        locked = await audit.lock_head(mine)
        head, is_vouched = locked.head, not locked.unsigned
        if not is_vouched and signer.public_key:
            unsigned = Checkpoint(head.seq, locked.now, head.hash)
            await audit.checkpoint(mine, signer.signed(tenant_id, unsigned))
            is_vouched = True
    return head, is_vouched
