"""The Celery app: the composition root of a worker process. `holdfast worker` runs it.

Settings are those of the environment, as in an API process. What is set here, with its reason, is not
for operators to choose.
"""

import signal
import warnings
from threading import Thread

import structlog
from celery import Celery, signals
from celery.exceptions import CPendingDeprecationWarning, SecurityWarning
from celery.platforms import EX_FAILURE
from celery.worker import WorkController
from kombu.asynchronous import get_event_loop
from kombu.transport import redis

from app import wakeups
from app.errors import Unavailable
from app.observability import configure_logging
from app.settings import Settings
from workers import tasks
from workers.runtime import runtime

log: structlog.stdlib.BoundLogger = structlog.get_logger()

settings = Settings.load()
broker_url = settings.broker_url.get_secret_value() if settings.broker_url else ""

app = Celery("holdfast", broker=broker_url)
for name, task in (
    (wakeups.GENERATE, tasks.generate),
    (wakeups.DELIVER, tasks.deliver),
    ("reap", tasks.reap),
):
    app.task(task, name=name, Strategy="workers.strategy:at_once")
app.conf.update(
    # Runs wait for models, in one event loop (workers/runtime.py). Processes would cost 27 MB and a pool of
    # connections each. Deadlines and cancellation belong to the engine.
    worker_pool="solo",
    worker_consumer="workers.consumer:Consumer",
    # One queue, ours, declared as the API declares it.
    task_queues=[wakeups.queue(broker_url)],
    task_default_queue=wakeups.QUEUE_NAME,
    task_create_missing_queues=False,
    # The row is the result.
    task_ignore_result=True,
    # One bell at a time, acknowledged once it has been answered.
    worker_prefetch_multiplier=1,
    # Nothing but data is ever decoded.
    task_serializer="json",
    accept_content=["json"],
    # Workers start in any order with the broker, and outlive it.
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    # RabbitMQ closes a channel whose bell is not acknowledged for half an hour, as by a worker that is full
    # for so long. That is no reason to end: the runs go on, and the bell is delivered again.
    broker_channel_error_retry=True,
    broker_transport_options=wakeups.consuming_options(broker_url),
    # `celery inspect ping` asks a worker over the broker how it is; other Celery apps there are not asked.
    control_exchange=wakeups.QUEUE_NAME,
    # Logs are ours (app/observability.py).
    worker_hijack_root_logger=False,
    worker_redirect_stdouts=False,
)


def _configure_logging(**_: object) -> None:
    """Keep Celery from setting up its own: it does so where nothing is connected to the signal."""
    configure_logging(settings.log_level)


def _open(**_: object) -> None:
    try:
        runtime.open(settings)
    except Unavailable as error:
        raise SystemExit(f"holdfast: {error}") from None


def _ready(**_: object) -> None:
    # Celery would leave without closing.
    signal.signal(signal.SIGQUIT, _quit)
    # On every loss of the broker it warns of a setting that means nothing here.
    warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)
    log.info("worker.ready", concurrency=settings.worker_concurrency)


def _begin_drain(**_: object) -> None:
    runtime.begin_drain()
    if hub := get_event_loop():
        # Celery's loop sees the order to stop when something wakes it, on RabbitMQ after ten seconds.
        # Only another thread can.
        Thread(target=hub.call_soon, args=(lambda: None,), daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, _cut_short)
    log.info("worker.stopping")


def _cut_short(*_: object) -> None:
    """What a second signal does: hand back or end now what still runs."""
    runtime.begin_drain(0)


def _quit(*_: object) -> None:
    _cut_short()
    signal.raise_signal(signal.SIGTERM)


def _close(sender: WorkController, **_: object) -> None:
    runtime.close()
    if runtime.has_failed:
        # Celery takes the end for one that was asked for.
        sender.exitcode = EX_FAILURE


signals.setup_logging.connect(_configure_logging)
signals.worker_init.connect(_open)
signals.worker_ready.connect(_ready)
signals.worker_shutting_down.connect(_begin_drain)
signals.worker_shutdown.connect(_close)

# A worker that lost its broker must not try to give its bells back to it: kombu fails at that, in a way
# that ends the worker. Who hands back a response rings for it anyway.
redis.Channel.do_restore = False

# It warns of root, because of formats that can carry code; this worker takes none.
warnings.filterwarnings("ignore", category=SecurityWarning)
