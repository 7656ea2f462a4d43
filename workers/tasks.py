"""The tasks. A message says that there is something to do; the rows say what (decision 11).

Each is called in Celery's own thread and returns at once: `done` is called when the message may be forgotten.
"""

from workers.runtime import Done, runtime


def generate(done: Done) -> None:
    """Generate whatever is queued, not only the response whose queueing rang."""
    runtime.generate(done)


def deliver(done: Done) -> None:
    """Send the webhooks that are due."""
    runtime.deliver(done)


def reap(done: Done) -> None:
    """Do the reaper's round now. Every worker does it on a timer; this is for whoever cannot wait."""
    runtime.reap(done)
