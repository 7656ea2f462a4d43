"""How many streams, and WebSockets, each tenant has open in this process."""

from collections import Counter

from app.errors import RateLimited

RETRY_AFTER_SECONDS = 1.0
"""What a client with too many is told to wait: a guess, as only it knows when it will close one."""


class OpenStreams:
    """Counts in memory: what a process forgets when it dies was closed with it."""

    def __init__(self, max_open: int, *, what: str = "streams") -> None:
        """`what` they are, in the words of a refusal."""
        self._max = max_open
        self._what = what
        self._open = Counter[int]()

    def open(self, tenant_id: int) -> None:
        """Count one more of a tenant's, until it is closed.

        Raises:
            RateLimited: the tenant has as many open as it may.
        """
        if self._open[tenant_id] >= self._max:
            raise RateLimited(
                f"Too many {self._what} are open: {self._max} is the limit. Please close some and retry.",
                code="rate_limit_exceeded",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )
        self._open[tenant_id] += 1

    def close(self, tenant_id: int) -> None:
        self._open[tenant_id] -= 1
        if not self._open[tenant_id]:
            del self._open[tenant_id]
