"""The tasks. A message says that there is something to do; the rows say what (decision 11)."""

from workers.runtime import runtime


def generate(response_id: str | None) -> None:  # noqa: ARG001 - for people who look at the broker
    """Generate whichever response is first in the queue, not the one whose queueing rang."""
    runtime.run(runtime.generate())


def reap() -> None:
    """Do the reaper's round now. Every worker does it on a timer; this is for whoever cannot wait."""
    runtime.run(runtime.reap())
