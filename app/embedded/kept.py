"""A part that is started again when it dies."""

import time
from collections.abc import Callable
from typing import Self

import structlog

from app.embedded.guarded import Guarded

PAUSE_SECONDS = 5.0
"""From one start to the next, at least: what dies at once must not keep the machine busy."""

log = structlog.get_logger(__name__)


class Kept:
    """One child process and its successors."""

    def __init__(self, name: str, start: Callable[[], Guarded]) -> None:
        """Start nothing yet. `name` is for the log."""
        self._name = name
        self._start = start
        self._child: Guarded | None = None
        self._is_asked = False
        self._next_start_at = 0.0
        self.due_at: float | None = None
        """When it wants to be started again; None while it runs."""

    @property
    def ended_fds(self) -> list[int]:
        """Readable once there is something to `tend`."""
        return [self._child.ended_fd] if self._child else []

    def start(self) -> None:
        self._child, self.due_at = self._start(), None
        self._is_asked = False
        self._next_start_at = time.monotonic() + PAUSE_SECONDS

    def tend(self) -> None:
        """Start it again where it has died, at once or when the pause is over.

        Raises:
            CannotStart: it did not come up again.
        """
        if self._child and self._child.has_ended:
            log.error("part.died", part=self._name, exit_code=self._child.wait())
            self._child.close()
            self._child, self.due_at = None, self._next_start_at
        if self.due_at is not None and time.monotonic() >= self.due_at:
            self.start()
            log.info("part.replaced", part=self._name)

    def request_stop(self) -> None:
        """Ask for good order, without waiting. A second time it asks to be quick about it."""
        if self._child:
            self._child.request_stop()
            self._is_asked = True

    def close(self) -> None:
        """Stop in good order and wait. An interruption hurries it, another cuts it off. Idempotent."""
        if not self._is_asked:
            self.request_stop()
        child, self._child = self._child, None
        if child:
            try:
                child.wait()
            except KeyboardInterrupt:
                child.request_stop()
                child.wait()
                raise
            finally:
                child.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
