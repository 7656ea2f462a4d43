"""Celery's consumer, in three points as we want it."""

from functools import partial

from celery.worker import consumer
from kombu.connection import Connection

from workers.runtime import runtime

LONGEST_PAUSE_SECONDS = 2
"""Between two tries to reach the broker. Celery would come to wait for 30."""


class Consumer(consumer.Consumer):
    """Finds a broker soon after it is back, and declares nothing but our queue.

    Where it sees a quorum queue, Celery declares 28 more of them for messages with a delay. We send none,
    and each would be a Raft group of the cluster.
    """

    class Blueprint(consumer.Consumer.Blueprint):
        """The steps of a consumer, in their order."""

        default_steps = tuple(
            step
            for step in consumer.Consumer.Blueprint.default_steps
            if not step.endswith(":DelayedDelivery")
        )

    def ensure_connected(self, conn: Connection) -> Connection:
        """Try until the broker answers, or this process is told to stop."""
        conn.ensure_connection = partial(conn.ensure_connection, interval_max=LONGEST_PAUSE_SECONDS)
        return super().ensure_connected(conn)

    def stop(self) -> None:
        """Whatever ends the worker, a bug of Celery too, what runs gets the grace and no more."""
        runtime.begin_drain()
        super().stop()
