"""Celery's consumer without one of its steps."""

from celery.worker import consumer


class Consumer(consumer.Consumer):
    """Declares nothing but our queue.

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
