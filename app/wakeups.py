"""Bells: after-commit nudges by way of a Celery broker. The only module of `app` that knows Celery.

A bell says that something is queued; the row says what. So a bell may be lost, doubled or late: that
costs time at most, because the reaper rings again for whatever has waited too long.

Messages are written in Celery's documented protocol, version 2, straight through kombu, its transport.
`Celery.send_task` says the same for twice the CPU: 340 µs a message on Redis against 155.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import structlog
from kombu.connection import Connection
from kombu.entity import Queue
from kombu.exceptions import OperationalError
from kombu.messaging import Producer
from kombu.utils.uuid import uuid

log: structlog.stdlib.BoundLogger = structlog.get_logger()

GENERATE = "generate"
"""Name of the task that the bell of a queued response calls."""

DELIVER = "deliver"
"""Name of the task that the bell of queued webhooks calls."""

QUEUE_NAME = "holdfast"

MAX_PENDING = 1000
"""Bells that wait for a slow broker. What comes on top is dropped: the reaper rings again."""

PATIENCE_SECONDS = 1
"""How long a broker may take to answer, and how long one that failed is left alone."""

GATHER_SECONDS = 0.005
"""How long bells gather behind one that was rung: it stands for them all."""

CLOSING_SECONDS = 2.0
"""How long the last bells may take when the process ends."""

# A worker that is full keeps a bell until it has room. RabbitMQ takes back after 30 minutes what was not
# acknowledged, and closes the channel, unless the queue says otherwise (from 3.12 on).
_DAY_MS = 24 * 60 * 60 * 1000
_QUORUM = {"x-queue-type": "quorum", "x-consumer-timeout": _DAY_MS}
_NO_CANVAS = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}

Ring = str | int
"""The id of a queued response, or `DELIVER`, or how many bells have to hang in the broker."""


def is_rabbitmq(broker_url: str) -> bool:
    return broker_url.startswith("amqp")


def queue(broker_url: str) -> Queue:
    """The one queue, as both sides declare it. On RabbitMQ it survives the loss of a node."""
    arguments = _QUORUM if is_rabbitmq(broker_url) else None
    return Queue(QUEUE_NAME, routing_key=QUEUE_NAME, queue_arguments=arguments)


def consuming_options(broker_url: str) -> dict[str, Any]:
    """Transport options of who waits for bells."""
    if is_rabbitmq(broker_url):
        return {}
    return {
        # Redis knows no acknowledgements. Kombu's substitute rings twice for long runs, and rings for what
        # a dead worker had taken later than the reaper does.
        "ack_emulation": False,
        # A broker that vanished without a word is noticed by the kernel, or by a ping.
        "socket_keepalive": True,
        "health_check_interval": 15,
    }


class Bell:
    """Rings from a thread of its own, so that the event loop never waits for a broker."""

    def __init__(self, broker_url: str) -> None:
        """Connect to nothing yet: the first bell does."""
        self._line = _Line(broker_url)
        self._pending: SimpleQueue[Ring | None] = SimpleQueue()
        self._thread: Thread | None = None

    async def ring(self, response_id: str) -> None:
        """Wake a worker, which claims what is queued. Never waits and never raises.

        Bells that ring at the same time are one: it stands for all that is queued.

        Args:
            response_id: What was queued, for people who look at the broker.
        """
        self._put(response_id)

    async def ring_deliveries(self) -> None:
        """Wake a worker, which delivers whatever webhooks are due. Never waits and never raises."""
        self._put(DELIVER)

    async def ring_many(self, count: int) -> None:
        """See to it that at least so many bells hang in the broker. Never waits and never raises.

        Counting those that do keeps them from piling up while workers are busy or gone.
        """
        if count > 0:
            self._put(count)

    async def close(self) -> None:
        """Let out what is pending, as far as the broker takes it."""
        if self._thread:
            self._pending.put(None)
            await asyncio.to_thread(self._thread.join, CLOSING_SECONDS)

    def _put(self, ring: Ring) -> None:
        if self._thread is None:
            self._thread = Thread(target=self._work, name="bell", daemon=True)
            self._thread.start()
        if self._pending.qsize() < MAX_PENDING:
            self._pending.put(ring)

    def _work(self) -> None:
        is_open = True
        while is_open:
            rings = self._gathered()
            is_open = None not in rings
            for ring in _once(rings):
                self._send(ring)
            if is_open:
                time.sleep(GATHER_SECONDS)
        self._line.hang_up()

    def _gathered(self) -> list[Ring | None]:
        """What is pending, as soon as anything is."""
        rings = [self._pending.get()]
        with suppress(Empty):
            while True:
                rings.append(self._pending.get_nowait())
        return rings

    def _send(self, ring: Ring) -> None:
        try:
            self._line.send(ring)
        except Exception:
            # Whatever a transport may raise, the thread must live on: no other would ring.
            log.exception("bell.crashed")
            self._line.hang_up()


def _once(rings: Sequence[Ring | None]) -> Iterable[Ring]:
    """One of each kind: any response, webhooks, the greatest number."""
    counts = [ring for ring in rings if isinstance(ring, int)]
    texts = {ring == DELIVER: ring for ring in rings if isinstance(ring, str)}
    return (*texts.values(), *([max(counts)] if counts else ()))


class _Line:
    """The connection to a broker that may come and go."""

    def __init__(self, broker_url: str) -> None:
        names = ("socket_timeout", "socket_connect_timeout")
        if is_rabbitmq(broker_url):
            names = ("read_timeout", "write_timeout")
        self._queue = queue(broker_url)
        self._connection = Connection(
            broker_url,
            connect_timeout=PATIENCE_SECONDS,
            transport_options=dict.fromkeys(names, PATIENCE_SECONDS),
        )
        self._producer: Producer | None = None
        self._is_dead = False
        self._retry_at = 0.0

    def send(self, ring: Ring) -> None:
        """Ring, or drop it where the broker is away. Says so once when that changes."""
        if time.monotonic() < self._retry_at:
            return
        was_open = self._producer is not None
        try:
            self._try(ring)
        except self._errors() as error:
            self.hang_up()
            if was_open:
                # A broker that was restarted since the last bell takes this one on a new connection.
                self.send(ring)
            else:
                self._note(error)
        else:
            self._note(None)

    def hang_up(self) -> None:
        self._producer = None
        with suppress(*self._errors()):
            self._connection.close()

    def _errors(self) -> tuple[type[Exception], ...]:
        return (OperationalError, *self._connection.connection_errors, *self._connection.channel_errors)

    def _try(self, ring: Ring) -> None:
        if self._producer is None:
            self._producer = self._open()
        if ring == DELIVER:
            _publish(self._producer, DELIVER)
            return
        if isinstance(ring, str):
            _publish(self._producer, GENERATE, ring)
            return
        # Declaring what exists is how one learns its length on every transport.
        hanging = self._queue(self._producer.channel).queue_declare().message_count
        for _ in range(ring - hanging):
            _publish(self._producer, GENERATE, None)

    def _open(self) -> Producer:
        self._connection.ensure_connection(max_retries=0)
        channel: Any = self._connection.channel()
        self._queue(channel).declare()
        # Without publisher confirms: a round trip to a quorum for each bell, which may get lost anyway.
        # That a connection is dead the kernel finds out (TCP_USER_TIMEOUT, which py-amqp sets).
        return Producer(channel, routing_key=QUEUE_NAME, serializer="json")

    def _note(self, error: Exception | None) -> None:
        is_dead = error is not None
        if is_dead:
            self._retry_at = time.monotonic() + PATIENCE_SECONDS
        if is_dead != self._is_dead:
            self._is_dead = is_dead
            if is_dead:
                log.warning("broker.lost", error=str(error))
            else:
                log.info("broker.back")


def _publish(producer: Producer, task: str, *arguments: str | None) -> None:
    task_id = uuid()
    producer.publish(
        (arguments, {}, _NO_CANVAS),
        headers={"lang": "py", "task": task, "id": task_id, "root_id": task_id, "ignore_result": True},
        correlation_id=task_id,
    )
