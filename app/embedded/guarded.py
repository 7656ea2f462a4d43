"""The parent's side of a guard: start a child, learn of its end, stop it in good order."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO

from app.embedded import guard
from app.embedded.account import Account

Ladder = Sequence[tuple[str, float]]
"""Signals from mild to harsh, each with the seconds of patience after it."""


class Guarded:
    """One child process that ends with us, even when we are killed."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        stop: Ladder,
        abandon: Ladder,
        death_signal: str = "SIGKILL",
        account: Account | None = None,
        pass_fds: Sequence[int] = (),
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        output: IO[bytes] | None = None,
    ) -> None:
        """Start the guard, and through it the child.

        Args:
            stop: The ladder for good order. Keep `abandon` short: it is for when nobody waits.
            account: Who the child runs as; the guard stays who we are.
            output: Where standard output and error go; by default where ours go.
        """
        plan = {
            "command": list(command),
            "pass_fds": list(pass_fds),
            "uid": account.uid if account else None,
            "gid": account.gid if account else None,
            "stop": stop,
            "abandon": abandon,
            "death_signal": death_signal,
        }
        self.ended_fd, guard_lives = os.pipe()
        try:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", guard.__file__, json.dumps(plan)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
                env=environment,
                cwd=cwd,
                pass_fds=(*pass_fds, guard_lives),
                # Ctrl-C goes to every process of the terminal's group; we alone decide who stops when.
                start_new_session=True,
            )
        finally:
            os.close(guard_lives)

    @property
    def has_ended(self) -> bool:
        """`ended_fd` becomes readable when this becomes true."""
        return self._guard.poll() is not None

    def request_stop(self) -> None:
        """Ask for good order, without waiting."""
        self._order(b"s")

    def wait(self) -> int:
        """The child's exit code, 128 and the signal's number where one ended it."""
        return self._guard.wait()

    def close(self) -> None:
        """End the child quickly if it has not ended; wait until it has. Idempotent."""
        if self._guard.stdin and not self._guard.stdin.closed:
            self._guard.stdin.close()
            self.wait()
            os.close(self.ended_fd)

    def _order(self, order: bytes) -> None:
        # A guard that has ended needs no orders.
        with contextlib.suppress(BrokenPipeError):
            os.write(self._orders_fd(), order)

    def _orders_fd(self) -> int:
        if self._guard.stdin is None:
            raise ValueError("a guard is always started with a pipe")
        return self._guard.stdin.fileno()


def stop_all(children: Iterable[Guarded]) -> None:
    """Stop them together, in good order. An interruption while we wait ends them quickly."""
    children = list(children)
    try:
        for child in children:
            child.request_stop()
        for child in children:
            child.wait()
    finally:
        for child in children:
            child.close()
