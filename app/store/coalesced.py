"""What is wanted of the store at the same time is done together: one round trip and one commit for all.

Whoever comes while nothing is under way begins at once: alone, nobody waits. Whoever comes meanwhile waits
for that commit, and the first of those then works for all of them (group commit; docs/decisions/0027).
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

import structlog

from app.errors import Unavailable

log: structlog.stdlib.BoundLogger = structlog.get_logger()

MOST_AT_ONCE = 64
"""In one commit: with more, the first would wait for the last to be sent."""

MOST_BYTES = 4 << 20
"""Of a batch, for the same reason; what is larger goes alone."""

Item = TypeVar("Item")
Result = TypeVar("Result")

Work = Callable[[Sequence[Item]], Awaitable[Sequence[Result]]]
"""Does several things of one tenant, all or none, and gives the result of each."""


@dataclass(slots=True, eq=False)
class _Wish(Generic[Item, Result]):
    item: Item
    leads: asyncio.Future[bool]
    """True asks whoever waits to work for all; False says that it has been done."""
    result: Result | None = None


@dataclass(slots=True)
class _Line(Generic[Item, Result]):
    """Who waits; it exists while something is under way."""

    waiting: deque[_Wish[Item, Result]] = field(default_factory=deque["_Wish[Item, Result]"])


class Coalesced(Generic[Item, Result]):
    """One kind of work, in batches. A batch is one tenant's, as row-level security wants it."""

    def __init__(self, work: Work[Item, Result], size_of: Callable[[Item], int]) -> None:
        """`size_of` says how many bytes an item brings."""
        self._work = work
        self._size_of = size_of
        self._lines: dict[int, _Line[Item, Result]] = {}

    async def do(self, tenant_id: int, item: Item) -> Result:
        """Have it done, with others or alone; on return it is committed.

        What the batch raises is raised here, if it is about this item or about the store as a whole. Who is
        cancelled does not know whether it was done.
        """
        this = _Wish[Item, Result](item, asyncio.get_running_loop().create_future())
        line = self._lines.get(tenant_id)
        if line is None:
            self._lines[tenant_id] = line = _Line[Item, Result]()
        else:
            line.waiting.append(this)
            if not await self._must_lead(tenant_id, this, line):
                return cast("Result", this.result)
        try:
            await self._lead([this, *self._companions(this, line)])
        finally:
            self._pass_on(tenant_id, line)
        return cast("Result", this.result)

    async def _must_lead(self, tenant_id: int, this: _Wish[Item, Result], line: _Line[Item, Result]) -> bool:
        try:
            return await this.leads
        except asyncio.CancelledError:
            if _was_asked(this.leads):
                # Cancelled before it could begin: nobody else would be asked.
                self._pass_on(tenant_id, line)
            raise

    def _pass_on(self, tenant_id: int, line: _Line[Item, Result]) -> None:
        """Let the first of those who came meanwhile work; who was cancelled since wants nothing."""
        while line.waiting:
            if not (successor := line.waiting.popleft()).leads.done():
                successor.leads.set_result(True)
                return
        del self._lines[tenant_id]

    def _companions(self, this: _Wish[Item, Result], line: _Line[Item, Result]) -> list[_Wish[Item, Result]]:
        """Those who have waited longest, as far as there is room beside this one."""
        found, size = list[_Wish[Item, Result]](), self._size_of(this.item)
        while line.waiting and len(found) < MOST_AT_ONCE - 1:
            size += self._size_of(line.waiting[0].item)
            if size > MOST_BYTES:
                break
            found.append(line.waiting.popleft())
        return [wish for wish in found if not wish.leads.done()]

    async def _lead(self, wishes: Sequence[_Wish[Item, Result]]) -> None:
        """Do it for all, the first of whom is who asks. Whatever ends that, nobody is left waiting."""
        try:
            await self._do_all(wishes)
        except Exception as error:
            _fail(wishes, error)
            raise
        except BaseException:
            _fail(wishes, Unavailable())
            raise

    async def _do_all(self, wishes: Sequence[_Wish[Item, Result]]) -> None:
        try:
            await self._do(wishes)
        except Unavailable:
            raise
        except Exception:
            if len(wishes) == 1:
                raise
            # One of them cannot be done. Only alone will it be known which.
            log.exception("batch.divided", size=len(wishes))
            for wish in (*wishes[1:], wishes[0]):
                await self._do_alone(wish, is_own=wish is wishes[0])

    async def _do_alone(self, wish: _Wish[Item, Result], *, is_own: bool) -> None:
        """A store that is away is so for all that are left; any other failure is this one's."""
        try:
            await self._do([wish])
        except Exception as error:
            if is_own or isinstance(error, Unavailable):
                raise
            _fail([wish], error)

    async def _do(self, wishes: Sequence[_Wish[Item, Result]]) -> None:
        results = await self._work([wish.item for wish in wishes])
        for wish, result in zip(wishes, results, strict=True):
            wish.result = result
            if not wish.leads.done():
                wish.leads.set_result(False)


def _was_asked(leads: asyncio.Future[bool]) -> bool:
    return leads.done() and not leads.cancelled() and not leads.exception() and leads.result()


def _fail(wishes: Sequence[_Wish[Any, Any]], error: Exception) -> None:
    """Tell those who still wait; the one who leads raises it, and waits for nothing."""
    for wish in wishes:
        if not wish.leads.done():
            wish.leads.set_exception(error)
            wish.leads.exception()  # Seen: the leader's own is never awaited.
