"""Bells: after-commit nudges by way of a Celery broker. The only module of `app` that knows Celery.

A bell says that something is queued; the row says what. So a bell may be lost, doubled or late: that
costs time at most, because the reaper rings again for whatever has waited too long.

Messages are written in Celery's documented protocol, version 2, straight through its transport, kombu.
`Celery.send_task` says the same for twice the CPU (340 µs a message on Redis against 155).
"""

import asyncio
import time
from queue import SimpleQueue
from threading import Thread

import structlog
from kombu import Producer, Queue
from kombu.exceptions import OperationalError

log: structlog.stdlib.BoundLogger = structlog.get_logger()

GENERATE = "generate"
"""Name of the task that claims and generates."""

QUEUE = "holdfast"
MAX_PENDING = 1000
"""Bells that wait for a slow broker. What comes on top is dropped: the reaper rings again."""

PATIENCE_SECONDS = 1.0
"""How long a broker may take, and how long one that failed is left alone."""

CLOSING_SECONDS = 2.0
"""How long the last bells may take when the process ends."""

# RabbitMQ takes a message back, and closes the channel, where a run lasts longer than 30 minutes
# (from its version 3.12 on this argument says otherwise; before it, that costs a reconnection).
_DAY_MS = 24 * 60 * 60 * 1000
_NOTHING_ELSE = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def queue(broker_url: str) -> Queue:
    """The one queue, as both sides declare it. On RabbitMQ it survives the loss of a node."""
    arguments = {"x-queue-type": "quorum", "x-consumer-timeout": _DAY_MS}
    return Queue(QUEUE, routing_key=QUEUE, queue_arguments=arguments if is_rabbitmq(broker_url) else None)


def is_rabbitmq(broker_url: str) -> bool:
    return broker_url.startswith("amqp")


class Bell:
    """Rings from a thread of its own, so that the event loop never waits for the broker."""

    def __init__(self, broker_url: str) -> None:
        """Connect to nothing yet: the first bell does."""
        self._url = broker_url
        self._line: Producer | None = None
        self._is_lost = False
        self._retry_at = 0.0
        self._pending: SimpleQueue[str | int | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name="bell", daemon=True)
        self._thread.start()

    async def ring(self, response_id: str) -> None:
        """Wake one worker, which claims whatever is first in the queue. Never waits, never raises.

        Args:
            response_id: Whose queueing this announces, for the logs.
        """
        self._put(response_id)

    async def ring_many(self, count: int) -> None:
        """See to it that at least so many bells hang in the broker. Never waits, never raises.

        Counting what is there keeps them from piling up where workers are busy or gone.
        """
        if count > 0:
            self._put(count)

    async def close(self) -> None:
        """Let the last bells out, as far as the broker takes them."""
        self._pending.put(None)
        await asyncio.to_thread(self._thread.join, CLOSING_SECONDS)

    def _put(self, bell: str | int) -> None:
        if self._pending.qsize() < MAX_PENDING:
            self._pending.put(bell)

    def _work(self) -> None:
        while (bell := self._pending.get()) is not None:
            if time.monotonic() >= self._retry_at:
                self._deliver(bell)
        self._hang_up()

    def _deliver(self, bell: str | int) -> None:
        was_open = self._line is not None
        try:
            self._send(bell)
        except (OperationalError, OSError, *_errors(self._url)) as error:
            self._hang_up()
            if was_open:
                # A broker that was restarted meanwhile is found by a second try, on a new connection.
                self._deliver(bell)
            else:
                self._lost(error)
        else:
            if self._is_lost:
                log.info("broker.back")
            self._is_lost = False

    def _lost(self, error: Exception) -> None:
        if not self._is_lost:
            log.warning("broker.lost", error=str(error))
        self._is_lost = True
        self._retry_at = time.monotonic() + PATIENCE_SECONDS

    def _send(self, bell: str | int) -> None:
        if self._line is None:
            self._line = _open(self._url)
        if isinstance(bell, str):
            _publish(self._line, bell)
            return
        # To declare what exists is how one asks for its length, on every transport.
        hanging: int = queue(self._url).bind(self._line.channel).queue_declare()[1]
        for _ in range(bell - hanging):
            _publish(self._line, None)

    def _hang_up(self) -> None:
        line, self._line = self._line, None
        if line:
            line.connection.collapse()
