"""One worker process: Celery's own command on the app in `workers.main`."""

import os
import sys
from collections.abc import Mapping
from typing import NoReturn

from app.embedded.guarded import Guarded

CLOSING_SECONDS = 30
"""Beyond the grace that runs get: handing back what is left, and the last commits."""

# Workers need not know of each other: rows say who runs what. Gossip, mingling and heartbeats would be
# messages from each to each.
COMMAND = (
    *(sys.executable, "-m", "celery", "--quiet", "--app", "workers.main", "worker"),
    *("--without-gossip", "--without-mingle", "--without-heartbeat"),
)


def become(environment: Mapping[str, str]) -> NoReturn:
    """Replace this process by a worker that reads its settings from there."""
    os.execve(COMMAND[0], COMMAND, environment)  # noqa: S606 - it is what the caller asked for


def start(environment: Mapping[str, str], *, grace_seconds: float) -> Guarded:
    """Start one that ends with us."""
    return Guarded(
        COMMAND,
        stop=(("SIGTERM", grace_seconds + CLOSING_SECONDS), ("SIGKILL", 5.0)),
        abandon=(("SIGKILL", 5.0),),
        environment=environment,
    )
