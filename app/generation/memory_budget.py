"""What all connections of a process remember together."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Share:
    """What one owner has in it, the oldest first."""

    held: dict[Hashable, tuple[int, Callable[[], None]]] = field(
        default_factory=dict[Hashable, tuple[int, Callable[[], None]]]
    )
    size_bytes: int = 0


class Budget:
    """A bounded number of bytes. Whoever has the most of them gives way, with what came first of theirs: so
    nobody is pushed out by one who has more.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._shares: dict[Hashable, _Share] = {}
        self._bytes = 0

    def hold(self, owner: Hashable, name: Hashable, size_bytes: int, forget: Callable[[], None]) -> None:
        """Count something in, as what came last.

        Args:
            forget: drops it; it is called once it has to give way, which may be at once.
        """
        self.free(owner, name)
        share = self._shares.setdefault(owner, _Share())
        share.held[name] = size_bytes, forget
        share.size_bytes += size_bytes
        self._bytes += size_bytes
        while self._bytes > self._max_bytes:
            self._evict()

    def free(self, owner: Hashable, name: Hashable) -> None:
        """Count something out, if it is in."""
        share = self._shares.get(owner)
        if share is None or name not in share.held:
            return
        size_bytes, _ = share.held.pop(name)
        share.size_bytes -= size_bytes
        self._bytes -= size_bytes
        if not share.held:
            del self._shares[owner]

    def _evict(self) -> None:
        owner, share = max(self._shares.items(), key=lambda each: each[1].size_bytes)
        oldest, (_, forget) = next(iter(share.held.items()))
        self.free(owner, oldest)
        forget()
