"""How claimed responses of a process end: those that end at the same time, together."""

from collections.abc import Sequence

from app.domain.jobs import Ended, Ending
from app.domain.tenancy import Caller
from app.store import lifecycle
from app.store.coalesced import Coalesced
from app.store.db import Database


class Endings:
    """One way out for all runs with whose response nothing else ends."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._together = Coalesced(self._finish, _size)

    async def finish(self, ending: Ending) -> Ended | None:
        """End a response that is in no conversation as `lifecycle.finish` does; on return it is committed.

        Raises:
            Unavailable: Postgres is away.
        """
        return await self._together.do(ending.claim.tenant_id, ending)

    async def _finish(self, batch: Sequence[Ending]) -> Sequence[Ended | None]:
        async with self._db.autocommit(Caller(batch[0].claim.tenant_id)) as tx:
            return await lifecycle.finish_each(tx, batch)


def _size(it: Ending) -> int:
    return len(it.turn.input_blob) + len(it.turn.output_blob) + len(it.turn.body) + len(it.shape or b"")
